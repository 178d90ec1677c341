"""Fork servers of these tests start by fork: each would import the package for half a second."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fivestage.executors.process import fork_client
from support.preloaded import Popen, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> Iterator[None]:
    start_server()  # now, since some tests count the descriptors and the children of this process
    with pytest.MonkeyPatch.context() as patch:
        names = SimpleNamespace(Popen=Popen, DEVNULL=subprocess.DEVNULL)
        patch.setattr(fork_client, "subprocess", names)
        yield
