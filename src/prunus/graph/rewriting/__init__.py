"""The graph that a smaller model must have, each of its operations proved on what is kept."""

from __future__ import annotations

from prunus.graph.rewriting.demand import Demanded, demanded, rewrite
from prunus.graph.rewriting.extents import RewriteError

__all__ = ["Demanded", "RewriteError", "demanded", "rewrite"]
