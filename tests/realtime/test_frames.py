"""The place of code that blocks a thread."""

from __future__ import annotations

import threading

import pytest

from fivestage.executors.code_location import location_of

pytestmark = pytest.mark.realtime


def location_of_code_from(file: str) -> str:
    """Return the reported place of a thread that waits in line 2 of code from a file of this name."""
    entered, leave = threading.Event(), threading.Event()
    code = compile("entered.set()\nleave.wait()", file, "exec")
    names = {"__name__": "somebodys_app", "entered": entered, "leave": leave}
    thread = threading.Thread(target=exec, args=(code, names))
    thread.start()
    assert entered.wait(30)
    while (found := str(location_of(thread.ident))).endswith(":1 <module>"):
        pass
    leave.set()
    thread.join()
    return found


def test_the_innermost_line_of_the_author_is_named() -> None:
    """The innermost line of the author's code is named, not that of a library."""
    assert location_of_code_from("/somewhere/app.py") == "/somewhere/app.py:2 <module>"


def test_code_without_a_file_is_not_the_authors() -> None:
    """Code without a file, as in a fork server's start, is not the author's: the innermost line is named."""
    assert "threading.py:" in location_of_code_from("<string>")
