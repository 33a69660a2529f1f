"""Names that C takes: of files, layers and arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Names that an argument can't have: words of C and of C++ (which may include the header), and macros of compilers.
_WORDS = """
    alignas alignof and asm auto bool break case catch char class const continue default delete do double else enum
    explicit export extern false float for friend goto if inline int long mutable namespace new not operator or private
    protected public register restrict return short signed sizeof static struct switch template this throw true try
    typedef typeid typename union unsigned using virtual void volatile while xor
    INFINITY NAN linux unix memory offsets rows columns"""

# A header of the same name would be found in the place of C's own.
_HEADERS = """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdbool
    stddef stdint stdio stdlib string tgmath time wchar wctype"""


def identifier(text: str) -> str:
    """Return a name that C takes and that no name inside a written file is.

    >>> identifier("lenet-5"), identifier("5.net"), identifier("step1"), identifier("模型")
    ('lenet_5', 'net_5_net', 'net_step1', 'net')
    """
    name = re.sub(r"[^0-9A-Za-z_]", "_", text).strip("_")
    if not name:
        return "net"
    return f"net_{name}" if re.match(r"[0-9]|step[0-9]", name) else name


def suffix(text: str) -> str:
    """Return what a name ends in that tells a layer.

    >>> suffix("layers.0.conv1"), suffix("0")
    ('layers_0_conv1', '0')
    """
    return re.sub(r"[^0-9A-Za-z_]", "_", text)


def distinct(names: Iterable[str]) -> list[str]:
    """Return names for arguments: valid, each once, none a word of the language.

    >>> distinct(["x", "x", "new", "a.b"])
    ['x', 'x_2', 'new_2', 'a_b']
    """
    chosen: list[str] = []
    for name in map(identifier, names):
        tries = (name if number == 1 else f"{name}_{number}" for number in range(1, len(chosen) + 3))
        chosen.append(
            next(candidate for candidate in tries if candidate not in chosen and candidate not in _WORDS.split())
        )
    return chosen


def check_path(path: Path, suffix: str = ".c") -> None:
    """Refuse a path that can't be that of a file with a C header beside it.

    Raises:
        ValueError: it does not end in the suffix, or its header would be found in the place of one of C's own.
    """
    if path.suffix != suffix:
        raise ValueError(
            f"two files are written, NAME{suffix} and NAME.h; give the path of the first, such as net{suffix}, got "
            f"{str(path)!r}"
        )
    if path.stem.lower() in _HEADERS.split():
        raise ValueError(f"{path.stem}.h is the name of a header of C itself; give {str(path)!r} another name")
