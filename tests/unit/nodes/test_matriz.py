from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import InvalidAppError, Pipeline, Query
from fivestage.nodes.decision import candidate_groups
from fivestage.pipeline.matriz import HISTORY, adapt_matriz_node

if TYPE_CHECKING:
    from collections.abc import Callable


class Echo:
    """A MATRIZ node reduced to its interface."""

    capabilities = ("echoing", "general")

    def __init__(self) -> None:
        """Start with an empty history, as the MATRIZ base class does."""
        self.processing_history: list[dict[str, Any]] = []

    def process(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Answer with the request."""
        self.processing_history.append({"id": len(self.processing_history)})
        return {"answer": input_data, "confidence": 0.9, "matriz_node": {}, "processing_time": 0.0}

    def validate_output(self, output: dict[str, Any]) -> bool:
        """Check the members of MATRIZ results."""
        return {"answer", "confidence", "matriz_node", "processing_time"} <= output.keys()


class AsyncEcho(Echo):
    """The same with coroutine methods."""

    async def process(self, input_data: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Answer with the request."""
        return super().process(input_data)

    async def validate_output(self, output: dict[str, Any]) -> bool:  # type: ignore[override]
        """Check as Echo does."""
        return super().validate_output(output)


QUERY = Query("q-1", "2+2", context={"premises": ["p"], "trace_id": "theirs"})


def test_request_has_the_keys(context: Callable[..., Any]) -> None:
    """The node gets the question under every key that MATRIZ nodes read, and the query's own members."""
    call, _, _ = adapt_matriz_node("echo", Echo())
    assert not inspect.iscoroutinefunction(call)
    assert call(QUERY, context())["answer"] == {
        "query": "2+2",
        "question": "2+2",
        "expression": "2+2",
        "premises": ["p"],
        "trace_id": "q-1",
        "context": {"premises": ["p"], "trace_id": "theirs"},
    }


def test_structured_request(context: Callable[..., Any]) -> None:
    """A member of the query's context wins over the text of the question."""
    call, _, _ = adapt_matriz_node("echo", Echo())
    assert call(Query("q-1", "x", context={"expression": "1+1"}), context())["answer"]["expression"] == "1+1"


async def test_async_node(context: Callable[..., Any]) -> None:
    """Coroutine methods stay coroutine functions, so that they run on the loop."""
    call, _, validate = adapt_matriz_node("echo", AsyncEcho())
    assert inspect.iscoroutinefunction(call)
    assert inspect.iscoroutinefunction(validate)
    result = await call(QUERY, context())
    assert validate is not None
    assert await validate(QUERY, context(result=result)) is True


def test_validation_sees_the_whole_output(context: Callable[..., Any]) -> None:
    """``validate_output`` gets the whole result of ``process``, not only the answer."""
    call, _, validate = adapt_matriz_node("echo", Echo())
    assert validate is not None
    assert validate(QUERY, context(result=call(QUERY, context()))) is True
    assert validate(QUERY, context(result={"answer": 1})) is False


def test_intents() -> None:
    """Capabilities are intents; known names add the intent that MATRIZ chooses them for."""
    assert adapt_matriz_node("echo", Echo())[1] == {"echoing", "general"}
    assert adapt_matriz_node("my_math_node", Echo())[1] == {"echoing", "general", "mathematical"}
    app = Pipeline()
    app.add_node("old_math", Echo())
    app.add_node("other", Echo(), intents={"mathematical"})
    assert candidate_groups(app.nodes, "mathematical")[0] == ["old_math", "other", "math"]
    assert app.nodes["other"].intents == {"mathematical"}


def test_history_is_bounded(context: Callable[..., Any]) -> None:
    """The history of MATRIZ nodes is bounded and keeps the newest entries."""
    node = Echo()
    call, _, _ = adapt_matriz_node("echo", node)
    for _ in range(2 * HISTORY):
        call(QUERY, context())
        assert len(node.processing_history) <= HISTORY
    assert len(node.processing_history) >= HISTORY // 2


class Bare:
    """A node with only ``process``."""

    capabilities = "one"

    def process(self, input_data: dict[str, Any]) -> str:
        """Answer with the text."""
        return str(input_data["query"])


def test_minimal_node(context: Callable[..., Any]) -> None:
    """Nothing but ``process`` is needed."""
    call, intents, validate = adapt_matriz_node("bare", Bare())
    assert call(QUERY, context()) == "2+2"
    assert intents == {"one"}
    assert validate is None


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (object(), "node 'x': object has no method process"),
        (print, "for a function use @app.node instead"),
        (Bare, "expected an object, got the class; pass Bare"),
    ],
)
def test_no_node(node: Any, message: str) -> None:
    """A node without ``process`` is rejected at registration, with a remedy."""
    with pytest.raises(InvalidAppError) as raised:
        Pipeline().add_node("x", node)
    assert message in str(raised.value)


async def test_a_def_around_an_async_check(context: Callable[..., Any]) -> None:
    """What an ``async def`` behind a decorator says is the verdict, not that there is a coroutine."""

    class Decorated(Echo):
        def validate_output(self, output: dict[str, Any]) -> Any:
            return AsyncEcho().validate_output(output)

    _, _, validate = adapt_matriz_node("echo", Decorated())
    assert validate is not None
    assert await validate(QUERY, context(result={"answer": 1})) is False
