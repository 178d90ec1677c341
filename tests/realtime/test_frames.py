"""Where code is that does not give control back."""

from __future__ import annotations

import threading

import pytest

from fivestage.executors.code_location import location_of

pytestmark = pytest.mark.realtime


def location_of_code_from(file: str) -> str:
    """Where a thread is seen that waits in the second line of code from a file of that name."""
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


def test_it_is_the_authors_innermost_line() -> None:
    """Not that of the library where the code waits."""
    assert location_of_code_from("/somewhere/app.py") == "/somewhere/app.py:2 <module>"


def test_code_without_a_file_is_not_the_authors() -> None:
    """It is what starts a fork server: then the innermost line of all says more."""
    assert "threading.py:" in location_of_code_from("<string>")
