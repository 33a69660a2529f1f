"""Downloads from a server on this machine that behaves well, badly, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import prunus.lab.data.download
from prunus.errors import UnavailableError
from prunus.lab.data.download import connect, download
from prunus.lab.data.idx_sets import load_idx_set
from tiny_sets import IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, TinySet

Answer = Callable[[http.server.BaseHTTPRequestHandler, str], None]


class Mirror:
    """A web server whose behaviour is a function; it remembers the paths it was asked for."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[str] = []
        self.closing = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path.removeprefix("/"))
                try:
                    answer(self, self.path.removeprefix("/").removesuffix(".gz"))
                except OSError:
                    self.close_connection = True  # the client went away, as some of these tests want

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirrors() -> Iterator[Callable[[Answer], Mirror]]:
    started: list[Mirror] = []

    def start(answer: Answer) -> Mirror:
        started.append(Mirror(answer))
        return started[-1]

    yield start
    for mirror in started:
        mirror.close()


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunus.lab.data.download, "CONNECT_S", 0.8)
    monkeypatch.setattr(prunus.lab.data.download, "STALL_S", 1.2)


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def serving(tiny: TinySet) -> Answer:
    return lambda handler, name: send(handler, gzip.compress(tiny.files[name]))


def not_found(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    handler.send_error(404)


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def everything_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_a_good_mirror_fills_the_cache_and_is_not_asked_twice(
    tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path
) -> None:
    mirror = mirrors(serving(tiny))
    published = tiny.published(mirrors=(mirror.url,))
    data = load_idx_set(published, None, True)
    assert data.source == f"{cache} (downloaded from {mirror.url.split('/')[2]})"
    assert everything_below(cache) == sorted(f"{name}.gz" for name in tiny.files)
    assert sorted(mirror.asked) == sorted(f"{name}.gz" for name in tiny.files)
    again = load_idx_set(published, None, True)
    assert again.source == f"{cache} (the cache)"
    assert len(mirror.asked) == 4
    assert again.checksum == data.checksum


def test_a_download_that_was_cut_short_goes_on(tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path) -> None:
    def half(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
        (serving(tiny) if name in (IMAGES, LABELS) else not_found)(handler, name)

    with pytest.raises(UnavailableError, match=r"downloading it failed .*404"):
        load_idx_set(tiny.published(mirrors=(mirrors(half).url,)), None, True)
    assert everything_below(cache) == sorted((f"{IMAGES}.gz", f"{LABELS}.gz"))
    whole = mirrors(serving(tiny))
    load_idx_set(tiny.published(mirrors=(whole.url,)), None, True)
    assert sorted(whole.asked) == sorted((f"{TEST_IMAGES}.gz", f"{TEST_LABELS}.gz"))


def wrong_bytes(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    send(handler, gzip.compress(b"something else"))


def no_gzip(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    send(handler, b"<html>please log in</html>")


def hanging_up_early(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    send(handler, gzip.compress(bytes(5000))[:20], length=5000)


def no_http(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    handler.wfile.write(b"I am a teapot\r\n\r\n")


def silent(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    time.sleep(2)


def stalling(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    send(handler, b"\x1f\x8b", length=5000)
    handler.wfile.flush()
    time.sleep(2)


def dripping(handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
    send(handler, b"\x1f\x8b", length=5000)
    for _ in range(200):  # never silent for long, never done
        time.sleep(0.05)
        handler.wfile.write(b"\0")
        handler.wfile.flush()


BAD = {
    not_found: "HTTP Error 404: Not Found",
    wrong_bytes: "sent content with the sha256 " + hashlib.sha256(b"something else").hexdigest(),
    no_gzip: "sent no complete gzip file",
    hanging_up_early: "sent no complete gzip file",
    no_http: "I am a teapot",
    silent: "no answer within 0.8 s",
    stalling: "timed out",
    dripping: "too slow",
}


@pytest.mark.parametrize("answer", BAD, ids=lambda answer: answer.__name__)
@pytest.mark.usefixtures("short_limits")
def test_a_bad_mirror_is_given_up_at_once_and_leaves_nothing(
    answer: Answer, tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path
) -> None:
    mirror = mirrors(answer)
    start = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        download("tiny", tiny.published().sha256, [mirror.url], cache)
    assert time.monotonic() - start < 5
    assert BAD[answer] in str(caught.value)
    assert mirror.url.split("/")[2] in str(caught.value)
    assert len(mirror.asked) == 1
    assert everything_below(cache) == []


@pytest.mark.parametrize("answer", [wrong_bytes, silent], ids=lambda answer: answer.__name__)
@pytest.mark.usefixtures("short_limits")
def test_the_next_mirror_is_asked_and_the_bad_one_not_again(
    answer: Answer, tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path
) -> None:
    bad, good = mirrors(answer), mirrors(serving(tiny))
    used = download("tiny", tiny.published().sha256, [closed_port(), bad.url, good.url], cache)
    assert used == good.url.split("/")[2]
    assert len(bad.asked) == 1
    assert len(good.asked) == 4
    for name, content in tiny.files.items():
        assert gzip.decompress((cache / f"{name}.gz").read_bytes()) == content


def test_mirrors_that_nobody_answers_at_cost_little_time(tiny: TinySet, cache: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"Connection refused; 127.*Connection refused"):
        download("tiny", tiny.published().sha256, [closed_port(), closed_port()], cache)
    assert time.monotonic() - start < 2


@pytest.mark.usefixtures("short_limits")
def test_the_time_to_connect_is_bounded_though_looking_up_the_name_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(10)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.8 s"):
        connect("http://mirror.invalid/file.gz")
    assert time.monotonic() - start < 2
    released.set()


def test_an_interrupted_download_leaves_no_part_of_a_file(
    tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        assert any(name.endswith(".part") for name in everything_below(cache)), "in the middle of it"
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prunus.lab.data.download, "show_progress", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download("tiny", tiny.published().sha256, [mirrors(serving(tiny)).url], cache)
    assert everything_below(cache) == []


def test_a_file_that_unpacks_without_end_is_refused(
    tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prunus.lab.data.download, "MAX_BYTES", 100_000)
    bomb = mirrors(lambda handler, _: send(handler, gzip.compress(bytes(1_000_000))))
    flood = mirrors(lambda handler, _: send(handler, bytes(1_000_000)))
    with pytest.raises(UnavailableError, match=r"unpacks to more than 100000 bytes.*sent more than 100000 bytes"):
        download("tiny", tiny.published().sha256, [bomb.url, flood.url], cache)
    assert everything_below(cache) == []


def test_a_cache_that_cannot_be_written_is_said_to_be_so(tiny: TinySet, cache: Path) -> None:
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="no place to download to"):
        download("tiny", tiny.published().sha256, ["http://127.0.0.1:9/"], cache)


def test_a_person_at_a_terminal_sees_progress_and_a_log_does_not(
    tiny: TinySet, mirrors: Callable[[Answer], Mirror], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    url = mirrors(serving(tiny)).url
    with caplog.at_level(logging.INFO, logger="prunus"):
        download("tiny", tiny.published().sha256, [url], cache)
    assert capsys.readouterr().err == ""
    assert f"downloading {url}{IMAGES}.gz" in caplog.messages
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download("tiny", tiny.published().sha256, [url], cache.with_name("second"))
    assert f"\rtiny: {IMAGES}: 0.0 of 0.0 MB" in capsys.readouterr().err
