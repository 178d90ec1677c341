"""What authors may declare about the calls of a node, and what the error says to write instead."""

from __future__ import annotations

import pkgutil
import socket
from typing import Any

import aiohttp
import httpx
import pytest

from fivestage import InvalidAppError, Pipeline, Unanswerable
from fivestage.pipeline.call_rules import CallRules


class Echo:
    """A MATRIZ node."""

    def process(self, request: dict[str, Any]) -> dict[str, Any]:
        return request


def declare(way: str, **rules: Any) -> CallRules | None:
    """Declare a node in one of the two ways."""
    app = Pipeline(builtins=False)
    if way == "node":
        app.node("llm", **rules)(lambda query, ctx: None)  # noqa: ARG005
    else:
        app.add_node("llm", Echo(), **rules)
    return app.nodes["llm"].rules


@pytest.fixture(params=["node", "add_node"])
def way(request: pytest.FixtureRequest) -> str:
    """Return how the node is declared."""
    return str(request.param)


def test_a_node_has_no_rules_by_default(way: str) -> None:
    """Also where the defaults are written out."""
    assert declare(way) is None
    assert declare(way, limit=None, timeout_ms=None, retries=0, retry_on=(), idempotent=False) is None


def test_rules_are_kept(way: str) -> None:
    """Milliseconds become seconds; one class is as good as a tuple."""
    rules = declare(way, limit=3, timeout_ms=80, retries=2, retry_on=OSError, idempotent=True)
    assert rules == CallRules(3, 0.08, 2, (OSError,), idempotent=True)
    assert declare(way, idempotent=True) == CallRules(idempotent=True)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError,
        socket.gaierror,
        aiohttp.ClientConnectorError,
        aiohttp.ClientConnectorDNSError,
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
    ],
)
def test_a_connection_that_was_not_made_may_be_retried(error: type[Exception]) -> None:
    """Nothing was sent, so the node need not be idempotent."""
    rules = declare("node", retries=1, retry_on=(error,))
    assert rules is not None
    assert rules.retry_on == (error,)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError,
        ConnectionResetError,
        OSError,
        TimeoutError,
        Exception,
        aiohttp.ServerDisconnectedError,
        aiohttp.ClientError,
        httpx.ReadTimeout,
        "openai:APIConnectionError",  # whose import takes a second, which only this test waits for
    ],
)
def test_other_failures_need_an_idempotent_node(error: type[Exception] | str) -> None:
    """The first call may have had its effect."""
    error = pkgutil.resolve_name(error) if isinstance(error, str) else error
    with pytest.raises(InvalidAppError, match=rf"{error.__name__} in retry_on .* write idempotent=True"):
        declare("node", retries=1, retry_on=(ConnectionRefusedError, error))
    assert declare("node", retries=1, retry_on=error, idempotent=True) is not None


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"limit": 0}, "limit must be an integer of 1 or more, got 0"),
        ({"limit": True}, "limit must be an integer of 1 or more, got True"),
        ({"limit": 2.5}, "limit must be an integer of 1 or more, got 2.5"),
        ({"timeout_ms": 0}, "timeout_ms must be more than 0, got 0"),
        ({"timeout_ms": float("nan")}, "timeout_ms must be more than 0, got nan"),
        ({"timeout_ms": "80"}, "timeout_ms must be more than 0, got '80'"),
        ({"retries": -1}, "retries must be an integer of 0 or more, got -1"),
        ({"retries": 1}, r"retries=1 needs retry_on.*write retry_on=\(ConnectionRefusedError,\)"),
        ({"retry_on": OSError}, "retry_on does nothing without retries; write retries=1"),
        ({"retries": 1, "retry_on": "OSError"}, "retry_on must be exception classes, got 'OSError'"),
        ({"retries": 1, "retry_on": (KeyboardInterrupt,)}, "retry_on must be exception classes"),
        ({"idempotent": 1}, "idempotent must be True or False, got 1"),
        (
            {"retries": 1, "retry_on": KeyError, "not_failures": LookupError, "idempotent": True},
            "KeyError is in retry_on, but is no failure",
        ),
        ({"retries": 1, "retry_on": Unanswerable, "idempotent": True}, "Unanswerable is in retry_on, but is"),
    ],
)
def test_wrong_declarations_are_refused(way: str, rules: dict[str, Any], text: str) -> None:
    """When the node is declared, with a text that names the node and says what to write."""
    with pytest.raises(InvalidAppError, match=f"node 'llm': {text}"):
        declare(way, **rules)
