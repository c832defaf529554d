"""Addresses at which there is no ComfyUI, or not much of one: a sentence, and no endless wait."""

import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.jobs.__main__ import server_version
from lab.jobs.engines import work_on_servers
from lab.jobs.folder import Folder
from lab.jobs.lines import Job

JOB = Job("0123456789abcdef", "", 1, {}, {}, "", {}, {})


class Other(BaseHTTPRequestHandler):
    """Answers all with one body, but knows no /ws."""

    body = b""

    def do_GET(self) -> None:
        if self.body.startswith(b"SSH"):
            self.wfile.write(self.body)
            return
        self.send_response(404 if self.path.startswith("/ws") else 200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "it answers in another form."),
        (b'{"system": null}', "it answers in another form."),
        (b"<html>", "it answers in another form."),
        (b"SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH"),
    ],
)
def test_another_server(
    other: str, body: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, "body", body)
    with pytest.raises(ValueError) as caught:
        server_version(other)
    assert str(caught.value) == f"--server: {other} isn't a ComfyUI that answers: {said}"


@pytest.mark.parametrize("address", ["http://a b", "http://[", "127.0.0.1", "http://127.0.0.1:x"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError) as caught:
        server_version(address)
    said = str(caught.value)
    assert said.startswith(f"--server: {address} isn't a ComfyUI that answers: ")
    assert len(said.splitlines()) == 1


def test_a_port_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.host.client.ANSWER_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ValueError, match=r"isn't a ComfyUI that answers: .*timed out"),
    ):
        server_version(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lab.host.client", raising=False)
    monkeypatch.setitem(sys.modules, "websocket", None)
    with pytest.raises(ValueError, match=r"^--server needs websocket-client: install the depen"):
        server_version("http://127.0.0.1:1")


def test_a_server_that_runs_nothing_ends_the_run(other: str, tmp_path: Path) -> None:
    Folder(tmp_path).create({})
    with pytest.raises(RuntimeError, match="isn't a ComfyUI that answers: Handshake status 404"):
        list(work_on_servers([JOB], tmp_path, [other]))
    assert not Folder(tmp_path).running()


def test_an_error_that_is_not_of_the_server_ends_the_run(other: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(work_on_servers([JOB], tmp_path / "lost", [other]))
