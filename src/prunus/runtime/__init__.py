"""A sparse model as C and as machine code: `compile` gives a callable that skips the zeros."""

from __future__ import annotations

from prunus.runtime.compiling import compile
from prunus.runtime.errors import CompileError, MissingCompilerError, NonFiniteError, ProgramError
from prunus.runtime.explaining import ProgramExplanation, StepFacts
from prunus.runtime.program import Program
from prunus.runtime.saving import load_program

__all__ = [
    "CompileError",
    "MissingCompilerError",
    "NonFiniteError",
    "Program",
    "ProgramError",
    "ProgramExplanation",
    "StepFacts",
    "compile",
    "load_program",
]
