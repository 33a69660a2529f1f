"""A sparse model as C and as machine code: `compile` gives a callable that skips the zeros."""

from __future__ import annotations

from prunus.compiling.building import compile
from prunus.compiling.loading import load
from prunus.compiling.mixed_program import MixedProfile, MixedProgram, Part, PartTime
from prunus.compiling.profiling import Profile, StepFacts
from prunus.compiling.program import Program
from prunus.compiling.saving import load_program
from prunus.compiling.toolchain import MissingCompilerError
from prunus.errors import CompileError, NonFiniteError, ProgramError

__all__ = [
    "CompileError",
    "MissingCompilerError",
    "MixedProfile",
    "MixedProgram",
    "NonFiniteError",
    "Part",
    "PartTime",
    "Profile",
    "Program",
    "ProgramError",
    "StepFacts",
    "compile",
    "load",
    "load_program",
]
