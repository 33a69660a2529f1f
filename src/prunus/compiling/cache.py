"""Files kept between processes: only what this user alone could have written is read, and it is written whole.

A library from the cache is run, so whoever could put one there could run anything as this user. Hence the folder must
be the user's own and writable by nobody else, nobody else may be able to put another in its place, and each file in it
must be the user's own as well. A library has its size and SHA-256 in a file beside it, so a damaged one is never run.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
import warnings
from pathlib import Path

from prunus.errors import CompileError

# No library and no choice of kernels is anywhere near as large; a larger file is not one of ours.
_MOST_BYTES = 1 << 28

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# (process, folder that is not safe) -> the temporary folder that this process takes instead
_temporary_folders: dict[tuple[int, Path], Path] = {}
_lock = threading.Lock()


def cache_folder() -> Path:
    """Return where built programs are to be kept: ``PRUNUS_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("PRUNUS_CACHE")
    if chosen:
        return Path(chosen).absolute()  # the loader looks for a bare name elsewhere
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "prunus" / "programs"


def private_folder() -> Path:
    """Return the cache folder, made if need be; where others could write to it, a temporary one of this process.

    Raises:
        CompileError: it can't be made, or no folder for temporary files is safe either.
    """
    folder = cache_folder()
    try:
        resolved = folder.resolve()  # once: what is checked is what is returned, wherever links lead by then
        _make(resolved)
        if not os.environ.get("PRUNUS_CACHE"):
            _close_to_others(resolved)
        danger = why_unsafe(resolved) or why_unsafe(folder)
    except OSError as error:
        raise unusable(folder, error) from error
    return resolved if danger is None else _temporary_folder(folder, danger)


def why_unsafe(folder: Path) -> str | None:
    """Say how another user could put files into a folder, or another folder in its place; None where nobody can."""
    if not hasattr(os, "geteuid"):
        return None  # on Windows a user's folders are closed to others by default, and modes don't tell
    lexical, resolved = folder.absolute(), folder.resolve()
    own = os.geteuid()
    state = resolved.stat()
    if state.st_uid != own:
        return f"{str(resolved)!r} belongs to another user"
    if state.st_mode & _WRITABLE_BY_OTHERS:
        return f"other users may write to {str(resolved)!r}"
    trusted = {0, own, os.stat("/").st_uid}  # in a container, the administrator may appear under another number
    for path in (lexical, *lexical.parents, *resolved.parents):
        link = path.lstat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in trusted:
            return f"{str(path)!r} is a link that another user made"
    for parent in (*lexical.parents, *resolved.parents):
        danger = _why_parent_is_unsafe(parent, trusted)
        if danger is not None:
            return danger
    return None


def _why_parent_is_unsafe(parent: Path, trusted: set[int]) -> str | None:
    """Say how another user could rename what lies in a folder: only owners may where it has the sticky bit."""
    state = parent.stat()
    if state.st_uid not in trusted:
        return f"{str(parent)!r} belongs to another user"
    if state.st_mode & stat.S_ISVTX:
        return None
    by_group = state.st_mode & stat.S_IWGRP and not _is_private_group(state.st_gid)
    return f"other users may write to {str(parent)!r}" if state.st_mode & stat.S_IWOTH or by_group else None


def _is_private_group(number: int) -> bool:
    """Tell whether a group is the user's own, of the user's name: then what it may write, only the user may."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _make(folder: Path) -> None:
    """Make a folder and those above it that lack, closed to others whatever the umask."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.mkdir(mode=0o700)
    if not folder.is_dir():
        raise NotADirectoryError("it is not a folder")


def _close_to_others(folder: Path) -> None:
    """Take write permission from others, where earlier versions left it: this folder is for programs only."""
    state = folder.stat()
    if hasattr(os, "geteuid") and state.st_uid == os.geteuid() and state.st_mode & _WRITABLE_BY_OTHERS:
        folder.chmod(0o700)


def _temporary_folder(unsafe: Path, danger: str) -> Path:
    """Return a folder that lasts as long as this process, and say why when it is made.

    Raises:
        CompileError: others could get at that one too.
    """
    key = os.getpid(), unsafe
    with _lock:
        if key not in _temporary_folders:
            folder = Path(tempfile.mkdtemp(prefix="prunus-programs-"))
            atexit.register(_remove, folder, key[0])
            _temporary_folders[key] = folder
            warnings.warn(
                f"the cache of programs {str(unsafe)!r} is not used, since {danger}: a library planted there would be "
                "run; programs are built anew in each process. Set PRUNUS_CACHE to a folder of your own that only you "
                "can write to (chmod 700)",
                RuntimeWarning,
                stacklevel=2,
            )
        folder = _temporary_folders[key]
    still = why_unsafe(folder)
    if still is not None:
        raise CompileError(
            f"there is no folder to build programs in that is safe from other users: {danger}; {still}; set "
            "PRUNUS_CACHE to a folder of your own that only you can write to (chmod 700)"
        )
    return folder.resolve()


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked process ends before the one that made the folder
        shutil.rmtree(folder, ignore_errors=True)


def read(path: Path) -> bytes | None:
    """Return what a file holds; None where there is none, or where another user could have written it."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MOST_BYTES:
            return None
        if hasattr(os, "geteuid") and (state.st_uid != os.geteuid() or state.st_mode & _WRITABLE_BY_OTHERS):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(state.st_size + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """Write a file for this user alone: its content is on the disk before its name is, and its name when this returns.

    Raises:
        CompileError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise unusable(path.parent, error) from error


def _flush_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_library(path: Path) -> bytes | None:
    """Return a built library; None where there is none, or it is not whole, or others could have written it."""
    content, seal = read(path), read(_beside(path))
    return content if content is not None and seal == _seal(content) else None


def write_library(path: Path, content: bytes) -> None:
    """Keep a built library, and its size and SHA-256 beside it.

    Raises:
        CompileError: it can't be written.
    """
    write(path, content)
    write(_beside(path), _seal(content))


def _beside(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _seal(content: bytes) -> bytes:
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()


def unusable(folder: Path, error: OSError) -> CompileError:
    """Return the error of a folder that can't be written."""
    return CompileError(
        f"the cache of programs {str(folder)!r} can't be written ({error}); set PRUNUS_CACHE to another folder"
    )
