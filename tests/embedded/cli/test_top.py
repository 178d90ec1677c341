from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from .conftest import COMMAND
from .screen import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Fivestage, RunningCommand

pytestmark = pytest.mark.broker


@pytest.fixture
def address(service: RunningCommand) -> str:
    """Return the address of a running service."""
    return f"127.0.0.1:{service.ready['admin_port']}"


@pytest.fixture
def free_port() -> Iterator[int]:
    """Reserve a port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_once(fivestage: Fivestage, address: str) -> None:
    """In a pipe, or with --once, one frame is printed: plain text, with the blocks of the status page."""
    for options in ([], ["--once"]):
        ran = fivestage("top", address, *options)
        assert (ran.code, ran.err, ran.out.isascii()) == (0, "", True)
        assert ran.out.startswith("fivestage ready   group fivestage   4 partitions")
        for block in ("\nIN TIME ", "\nANSWERED ", "\nWHERE ", "\nRUNNING ", "\nWORKERS "):
            assert block in ran.out


def test_json(fivestage: Fivestage, address: str) -> None:
    """--json prints the document of the service, once."""
    ran = fivestage("top", address, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["service"]["state"] == "ready"


def test_address_of_the_settings(fivestage: Fivestage, service: RunningCommand) -> None:
    """Without an address it is the one of the settings."""
    ran = fivestage("top", ADMIN__PORT=str(service.ready["admin_port"]))
    assert (ran.code, ran.out[:15]) == (0, "fivestage ready")


def test_nothing_answers(fivestage: Fivestage, free_port: int) -> None:
    """Where nothing answers, one line says how to start a service or to give its address; exit code 1."""
    for options in ([], ["--once"], ["--json"]):
        ran = fivestage("top", f"127.0.0.1:{free_port}", *options)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
        assert f"nothing answers at http://127.0.0.1:{free_port} (connection refused)" in ran.err
        assert "fivestage run" in ran.err


def test_no_port(fivestage: Fivestage) -> None:
    """With admin.port = 0 only the log has the port, which the error says."""
    ran = fivestage("top", ADMIN__PORT="0")
    assert (ran.code, ran.out) == (2, "")
    assert "admin_port in the service's log line ready" in ran.err


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 0)], ids=["q", "Ctrl-C"])
def test_live(environment: dict[str, str], address: str, key: bytes, code: int) -> None:
    """On a terminal frames follow each other, also in another size; at the end the terminal is as before."""
    settings = {**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    with Terminal([*COMMAND, "top", address], settings, (80, 24)) as terminal:
        terminal.wait_for("fivestage ready")
        assert b"\x1b[?1049h" in terminal.written
        terminal.resize(40, 10)
        terminal.wait_for("more lines")
        terminal.press(key)
        assert terminal.end() == code
        assert terminal.attributes() == terminal.before
        for shown, hidden in ((b"\x1b[?25h", b"\x1b[?25l"), (b"\x1b[?1049l", b"\x1b[?1049h")):
            assert terminal.written.rfind(shown) > terminal.written.rfind(hidden)
