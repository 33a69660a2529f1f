"""The error for damaged files."""

from __future__ import annotations

from prunus.errors import PackError


class DamagedError(PackError):
    """The content of the file contradicts itself: it was truncated, changed, or forged."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file is damaged: {reason}")
