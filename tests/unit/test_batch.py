"""How authors declare and test batch nodes, and the example of the document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import BatchContext, BatchItem, InvalidAppError, Orchestrator, Pipeline, Query, ResourceError
from support.documents import blocks, section, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def batch(items: Any, ctx: Any) -> list[Any]:
    """Take what a batch node takes."""
    assert ctx is not None
    return [item.query.user_input for item in items]


def node(query: Any, ctx: Any) -> Any:
    """Take what an ordinary node takes."""


def one(items: Any) -> Any:
    """Take too little."""


def yields(items: Any, _ctx: Any) -> Iterator[Any]:
    """Yield the answers."""
    yield from items


@pytest.mark.parametrize(
    ("options", "function", "text"),
    [
        (
            {"max_size": 0},
            batch,
            "batch node 'n': max_size must be a whole number of items, 1 or more; got 0",
        ),
        ({"max_size": True}, batch, "max_size must be a whole number of items, 1 or more; got True"),
        ({"max_size": 2.5}, batch, "max_size must be a whole number of items, 1 or more; got 2.5"),
        ({"max_wait_ms": -1}, batch, "batch node 'n': max_wait_ms must be milliseconds, 0 or more; got -1"),
        ({"max_wait_ms": "5"}, batch, "max_wait_ms must be milliseconds, 0 or more; got '5'"),
        ({"max_wait_ms": float("inf")}, batch, "max_wait_ms must be milliseconds, 0 or more; got inf"),
        ({"intents": "greeting"}, batch, "intents is the text 'greeting', not a set"),
        ({"not_failures": 3}, batch, "not_failures must be exception classes, got 3"),
        (
            {},
            one,
            r"cannot be called with (items, ctx), too many positional arguments; declare it as def one(",
        ),
        ({}, yields, "yields is a generator; return the result instead of yielding it"),
        ({}, list, "expected a function (items, ctx), got the class list"),
        ({}, 7, "expected a function (items, ctx), got int"),
        (
            {},
            node,
            "node takes a query, but gets the items of a batch; declare it as node(items, ctx), read item",
        ),
    ],
)
def test_wrong_declarations_say_what_to_write(
    options: dict[str, Any], function: Callable[..., Any], text: str
) -> None:
    """They fail when the app is made, not at the first query."""
    with pytest.raises(InvalidAppError) as raised:
        Pipeline().batch_node("n", **options)(function)
    assert text in str(raised.value)


def test_a_name_is_needed() -> None:
    """The decorator without arguments is the usual mistake."""
    with pytest.raises(InvalidAppError, match="a node needs a name"):
        Pipeline().batch_node(batch)  # type: ignore[arg-type]


def test_a_later_declaration_replaces_an_earlier_one() -> None:
    """Also one that is not a batch node."""
    app = Pipeline(builtins=False)
    assert app.batch_node("n", intents={"any"})(batch) is batch
    assert app.batch_nodes == {"n"}
    assert app.nodes["n"].intents == {"any"}
    app.node("n")(node)
    assert app.batch_nodes == set()


async def test_a_function_is_tested_without_an_app() -> None:
    """Items and context are made in one line, with time without end; resources come from an override."""
    app = Pipeline(builtins=False)

    @app.resource
    def model() -> Iterator[int]:
        yield 1

    item, ctx = BatchItem(Query("q", "hello")), BatchContext()
    assert batch([item], ctx) == ["hello"]
    assert (item.remaining_ms(), ctx.remaining_ms()) == (float("inf"), float("inf"))
    assert await ctx.run_sync(len, "abc") == 3
    with pytest.raises(ResourceError, match=r"with app.override\(model, fake\)"):
        ctx.use(model)
    with app.override(model, 2):
        assert ctx.use(model) == 2


async def test_the_printed_node() -> None:
    """It answers many at a time; a question that is not in its model is an error for that query only."""
    names: dict[str, Any] = {}
    [code] = blocks("python", section("Batches", text_of("docs/authors.md")))
    exec(compile(code, "authors.md", "exec"), names)  # noqa: S102 - the document's code is under test
    async with Orchestrator(names["app"]) as orchestrator:
        known, unknown = await asyncio.gather(*map(orchestrator.process_query, ["hello", "hello you"]))
    assert (known.answer, known.node) == ("Hello!", "greeter")
    assert (unknown.answer, unknown.error_type) == (None, "LookupError")
