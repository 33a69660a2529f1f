"""What is wrong with a file, in one kind of error."""

from __future__ import annotations

from prunus.errors import PackError


class DamagedError(PackError):
    """What the file says of itself does not add up: it was cut, changed, or made up."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file is damaged: {reason}")
