"""The control socket: what it answers, whom, and what it survives."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeprune._cli_ctl import ctl
from edgeprune.runtime.errors import ProfileNotFound
from edgeprune.service import _control as control
from edgeprune.service import _places as places
from edgeprune.service._control import ControlServer
from edgeprune.service._control_client import ask, choose_socket
from edgeprune.service._places import ProfileLock, ServiceError, private_folder, socket_path
from edgeprune.service._protocol import COMMANDS, BadRequest, Request, parse_request

Serve = Callable[..., ControlServer]
MODEL_ID = "0123456789abcdef" * 4


@pytest.fixture
def path(home: Path) -> Path:
    return home / "a.sock"


@pytest.fixture
def asked() -> list[Request]:
    return []


@pytest.fixture
def server(path: Path, asked: list[Request]) -> Iterator[ControlServer]:
    def handle(request: Request) -> dict[str, Any]:
        asked.append(request)
        if request.command == "rollback":
            raise ProfileNotFound("there is nothing to go back to.")
        if request.command == "resume":
            raise RuntimeError("it broke")
        return {"command": request.command, "big": "x" * 20_000}

    server = ControlServer(path, handle)
    yield server
    server.close()
    assert not path.exists()


def talk(path: Path, *parts: bytes, pause_s: float = 0.0, read: bool = True) -> list[Any]:
    """Send the parts, and return the answers until the service has no more."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10.0)
        client.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            for part in parts:
                client.sendall(part)
                time.sleep(pause_s)
            if read:
                client.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while read and (more := client.recv(65_536)):
                heard += more
    return [json.loads(line) for line in heard.splitlines()]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def kinds(answers: list[Any]) -> list[str]:
    return ["ok" if one["ok"] else one["error"]["kind"] for one in answers]


@pytest.mark.parametrize("command", COMMANDS)
def test_requests_survive_the_line(command):
    request = Request(command, "anna" if command == "use" else None)
    line = request.encode()
    assert line.count(b"\n") == 1
    assert parse_request(line) == request


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", "no"),
        (b"status", "one line of JSON"),
        (b"\xff\xfe", "one line of JSON"),
        (b"[" * 4000, "one line of JSON"),
        (b'{"version": ' + b"9" * 4000 + b"}", "version 999"),
        (b"[1]", "a JSON object"),
        (b"{}", "version None is not understood; this service speaks 1"),
        (b'{"version": true, "command": "status"}', "version True"),
        (b'{"version": 2, "command": "status"}', "version 2"),
        (b'{"version": 1, "command": "staus"}', "did you mean 'status'?"),
        (b'{"version": 1, "command": ["status"]}', "there is status, pause"),
        (b'{"version": 1, "command": "status", "x": 1}', "'x' is no part"),
        (b'{"version": 1, "command": "status", "profile": "anna"}', "and no other"),
        (b'{"version": 1, "command": "use"}', "names a profile"),
        (b'{"version": 1, "command": "use", "profile": 3}', "names a profile"),
    ],
)
def test_what_is_no_request_is_told_why(line, text):
    with pytest.raises(BadRequest, match=r"^.{1,300}$") as caught:
        parse_request(line)
    assert text in str(caught.value)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_bytes_are_a_request_or_are_refused(line):
    try:
        found = parse_request(line)
    except BadRequest as refusal:
        assert 0 < len(str(refusal)) <= 300
    else:
        assert found.command in COMMANDS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"version": st.just(1) | JSON, "command": JSON, "profile": JSON}))
def test_json_is_a_request_or_is_refused(fields):
    try:
        found = parse_request(json.dumps(fields).encode())
    except BadRequest as refusal:
        assert 0 < len(str(refusal)) <= 300
    else:
        assert found.command in COMMANDS


def test_answers_and_refusals(server, path, asked):
    assert ask(path, Request("status"))["command"] == "status"
    assert ask(path, Request("use", "anna"))["command"] == "use"
    assert asked == [Request("status"), Request("use", "anna")]
    with pytest.raises(ServiceError, match="there is nothing to go back to"):
        ask(path, Request("rollback"))
    with pytest.raises(ServiceError, match="unexpected RuntimeError: it broke"):
        ask(path, Request("resume"))
    many = talk(path, Request("status").encode() * 3 + b"nonsense\n" + Request("stop").encode())
    assert kinds(many) == ["ok", "ok", "ok", "bad-request", "ok"]


def test_only_this_user_can_reach_it(server, path, monkeypatch):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setattr(control.os, "geteuid", lambda: 12_345)
    assert kinds(talk(path, Request("status").encode())) == ["forbidden"]


def test_half_lines_huge_lines_and_silence(server, path, monkeypatch, asked):
    monkeypatch.setattr(control, "_PATIENCE_S", 0.3)
    status = Request("status").encode()
    assert kinds(talk(path, status[:10], status[10:], pause_s=0.05)) == ["ok"]
    assert kinds(talk(path, status[:-1])) == ["bad-request"]
    assert kinds(talk(path, b"x" * 100_000)) == ["bad-request"]
    assert kinds(talk(path, b"x" * 5000 + b"\n" + status)) == ["bad-request"]
    assert kinds(talk(path, status[:5], pause_s=0.8)) == ["timeout"]
    assert talk(path, b"", pause_s=0.8) == []
    assert talk(path) == []
    assert asked == [Request("status")]


def test_who_does_not_read_keeps_nobody_waiting(server, path, monkeypatch):
    monkeypatch.setattr(control, "_PATIENCE_S", 0.5)
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(str(path))
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        deaf.setblocking(False)
        for _ in range(200):  # four megabytes of answers
            deaf.send(Request("status").encode())
    assert ask(path, Request("status"))["command"] == "status"
    until = time.monotonic() + 10.0
    while server._clients and time.monotonic() < until:
        time.sleep(0.05)
    assert not server._clients
    deaf.close()


def test_too_many_at_once(server, path):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for client in clients:
        client.settimeout(10.0)
        client.connect(str(path))
    refused = [client for client in clients[32:] if b'"busy"' in client.recv(4096)]
    assert len(refused) == 8
    for client in clients:
        client.close()
    assert ask(path, Request("status"))["command"] == "status"


def test_it_survives_a_storm_of_nonsense(server, path, monkeypatch):
    """Garbage, half lines, huge lines, slow and vanishing clients, all at once."""
    monkeypatch.setattr(control, "_PATIENCE_S", 0.5)
    descriptors = open_files()
    storm = random.Random(1)

    def nonsense() -> None:
        for _ in range(40):
            kind = storm.randrange(5)
            with contextlib.suppress(OSError, ValueError):
                if kind == 0:
                    talk(path, storm.randbytes(storm.randrange(1, 300)), b"\n")
                elif kind == 1:
                    talk(path, b"{" * storm.randrange(1, 20_000))
                elif kind == 2:
                    talk(path, Request("status").encode()[: storm.randrange(1, 30)], read=False)
                elif kind == 3:
                    talk(path, *[bytes([one]) for one in Request("status").encode()])
                else:
                    talk(path, Request("status").encode() * 5, read=False)

    threads = [threading.Thread(target=nonsense) for _ in range(8)]
    for thread in threads:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in threads):
        answered += ask(path, Request("status"))["command"] == "status"
    assert answered > 10
    time.sleep(1.0)
    assert not server._clients
    assert open_files() <= descriptors


def test_two_servers_a_stale_socket_and_something_else_in_the_way(server, path, home):
    with pytest.raises(ServiceError, match="give this one another name with --name"):
        ControlServer(path, lambda _: {})
    stale = home / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with pytest.raises(ServiceError, match="no service is running at"):
        ask(stale, Request("status"))
    fresh = ControlServer(stale, lambda _: {"fresh": 1})
    assert ask(stale, Request("status")) == {"fresh": 1}
    fresh.close()
    fresh.close()
    (home / "file.sock").write_text("mine")
    with pytest.raises(ServiceError, match="cannot be made"):
        ControlServer(home / "file.sock", lambda _: {})
    assert (home / "file.sock").read_text() == "mine"
    with pytest.raises(ServiceError, match="no service is running at"):
        ask(home / "none.sock", Request("status"))
    with pytest.raises(ServiceError, match=r"cannot be reached|no service"):
        ask(home / "file.sock", Request("status"))


def test_a_socket_that_may_not_be_opened_is_no_wrong_usage(home, monkeypatch):
    (home / "theirs.sock").write_text("")
    monkeypatch.setattr(click.types.os, "access", lambda *_: False)
    done = CliRunner().invoke(ctl, ["--socket", str(home / "theirs.sock"), "status"])
    assert isinstance(done.exception, ServiceError), done.output


def test_what_answers_may_be_anything(home):
    path = home / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            for reply in (b"HTTP/1.1 400\r\n\r\n", b"[]\n", b'{"ok": true}\n', b""):
                client, _ = listener.accept()
                client.recv(100)
                client.sendall(reply)
                client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        for _ in range(4):
            with pytest.raises(ServiceError, match="no service of edgeprune"):
                ask(path, Request("status"))
        thread.join()


def test_where_the_socket_stands(home, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert socket_path("digits", home) == home / "run" / "digits.sock"
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert socket_path("digits", home).parent == home / "run"
    runtime = home / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert socket_path("digits", home) == runtime / "edgeprune" / "digits.sock"
    (runtime / "edgeprune").chmod(0o755)  # made tight again
    socket_path("digits", home)
    assert stat.S_IMODE((runtime / "edgeprune").stat().st_mode) == 0o700
    (home / "link").symlink_to(runtime)
    with pytest.raises(ServiceError, match="not a folder of your own"):
        private_folder(home / "link")
    monkeypatch.setattr(places.os, "geteuid", lambda: 12_345)
    with pytest.raises(ServiceError, match="not a folder of your own"):
        socket_path("digits", home)


def test_which_service_is_meant(home, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    with pytest.raises(ServiceError, match="no service is running"):
        choose_socket(home, None)
    one = ControlServer(socket_path("one", home), lambda _: {})
    (home / "run").mkdir()
    two = ControlServer(home / "run" / "two.sock", lambda _: {})  # of a system service
    with pytest.raises(ServiceError, match=r"one, two\. Say --name"):
        choose_socket(home, None)
    with pytest.raises(ServiceError, match=r"no service called 'three' is running\. There is one"):
        choose_socket(home, "three")
    one.close()
    assert choose_socket(home, None) == home / "run" / "two.sock"
    two.close()


def test_profiles_are_locked_and_let_go(home):
    with ProfileLock(home, MODEL_ID) as first, ProfileLock(home, MODEL_ID) as second:
        first.move_to("anna")
        first.move_to("anna")
        with pytest.raises(ServiceError, match="another service is running for the profile"):
            second.move_to("anna")
        second.move_to("ben")
        with pytest.raises(KeyError), first.moving_to("clara"):
            raise KeyError  # the service would not switch
        with pytest.raises(ServiceError):
            second.move_to("anna")
        second.move_to("clara")
        first.move_to("ben")
        for name in ("", ".x", "../x", "a/b", "x" * 65):
            with pytest.raises(ServiceError, match="cannot name a profile"):
                first.move_to(name)
        with ProfileLock(home, "f" * 64) as other_model:
            other_model.move_to("ben")
    assert not list((home / "run").iterdir())
