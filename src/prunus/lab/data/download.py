"""Download a dataset's files from mirrors: in bounded time, with checksums, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import queue
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from prunus.errors import DataError, UnavailableError
from prunus.files import whole_file
from prunus.lab.data.folders import missing_files

LOG = logging.getLogger("prunus")

CONNECT_S = 5.0  # from the request to the first byte, including name look-up and redirections
STALL_S = 10.0  # without a byte, or slower than LEAST_BYTES_PER_S
LEAST_BYTES_PER_S = 10_000
MAX_BYTES = 2**30  # of one file, compressed or not; MNIST's largest has 47 MB
CHUNK = 2**18

# The errors of a failing mirror, connection or disk.
FAILURES = (OSError, http.client.HTTPException, DataError)


def download(name: str, files: Mapping[str, str], mirrors: Sequence[str], folder: Path) -> str:
    """Download those of a dataset's files that a folder lacks, each as `<file>.gz`.

    A mirror that fails is not used again, so an unreachable mirror costs `CONNECT_S` at most.

    Args:
        name: the name of the dataset.
        files: file name -> SHA-256 of its uncompressed bytes, in hex.
        mirrors: URLs to which `<file>.gz` is appended, used in order.
        folder: the folder for the files; created if it does not exist.

    Returns:
        The hosts the files came from, in words.

    Raises:
        UnavailableError: no mirror had a file, or the folder can't be written. Complete downloads are kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"no place to download to: {folder} can't be made ({error})") from error
    left, reasons, used = list(mirrors), [], []
    for file in missing_files(folder, files):
        while left:
            url = f"{left[0]}{file}.gz"
            try:
                fetch(url, folder / f"{file}.gz", files[file], described=f"{name}: {file}")
            except FAILURES as error:
                reasons.append(f"{_host(left.pop(0))}: {_reason(error)}")
            else:
                used.append(_host(url))
                break
        else:
            raise UnavailableError(f"downloading it failed ({'; '.join(reasons) or 'no mirror is known'})")
    return " and ".join(dict.fromkeys(used))


def fetch(url: str, path: Path, sha256: str, *, described: str) -> None:
    """Download one gzipped file, which gets its name only after its content has been checked.

    Args:
        url: the URL of the file.
        path: the path to write.
        sha256: the SHA-256 of the uncompressed bytes, in hex.
        described: its name in the progress line.

    Raises:
        OSError: the server can't be reached, answers with an error, is too slow, or the file can't be written.
        http.client.HTTPException: the answer is not valid HTTP.
        DataError: another file was sent, or a part of it.
    """
    LOG.info("downloading %s", url)
    with connect(url) as response, whole_file(path) as temporary:
        receive(response, temporary, described)
        actual = sha256_unpacked(temporary)
        if actual != sha256:
            raise DataError(f"sent content with the sha256 {actual}, expected {sha256}")


def connect(url: str) -> http.client.HTTPResponse:
    """Open a URL within `CONNECT_S` seconds in total.

    The time-out of urlopen starts again for each address of a host, and excludes the look-up of its name. So the call
    is made in a thread, which is abandoned after the time-out.

    Raises:
        OSError: the server can't be reached in time, or answers with an error.
    """
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def attempt() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "prunus"})
            response = urllib.request.urlopen(request, timeout=STALL_S)
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            answers.put(error)
            return
        if given_up.is_set():
            response.close()
        answers.put(response)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_S)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {CONNECT_S:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def receive(response: http.client.HTTPResponse, path: Path, described: str) -> None:
    """Write a server's answer to a file, with a progress line on terminals.

    Raises:
        TimeoutError: nothing was received for `STALL_S` seconds, or less than `LEAST_BYTES_PER_S` on average later.
        OSError: the server sent more than `MAX_BYTES`, the connection broke, or the file can't be written.
    """
    start = time.monotonic()
    received = 0
    try:
        with path.open("wb") as file:
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                received += len(chunk)
                show_progress(described, received, response.headers.get("Content-Length"))
                if received < LEAST_BYTES_PER_S * (time.monotonic() - start - STALL_S):
                    raise TimeoutError(f"too slow: {received} bytes in {time.monotonic() - start:.0f} s")
                if received > MAX_BYTES:
                    raise OSError(f"sent more than {MAX_BYTES} bytes")
    finally:
        show_progress(described, received, None, end="\n")


def show_progress(described: str, received: int, total: str | None, end: str = "") -> None:
    """Overwrite the last line of a terminal with the progress of a download; files and pipes get nothing."""
    if sys.stderr.isatty():
        of_total = f" of {int(total) / 1e6:.1f}" if total is not None and total.isdigit() else ""
        sys.stderr.write(f"\r{described}: {received / 1e6:.1f}{of_total} MB\x1b[K{end}")
        sys.stderr.flush()


def sha256_unpacked(path: Path) -> str:
    """Return the SHA-256 of a gzipped file's content in hex, read in pieces.

    Raises:
        DataError: it is not a complete gzip file, or unpacks to more than `MAX_BYTES`.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if size > MAX_BYTES:
                    raise DataError(f"sent a file that unpacks to more than {MAX_BYTES} bytes")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"sent no complete gzip file ({error})") from error
    return digest.hexdigest()


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc or url


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)  # the cause, without urllib's wrapper
    return str(error) or type(error).__name__
