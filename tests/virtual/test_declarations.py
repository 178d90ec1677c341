"""Wrong declarations fail where they are made, and the error says what to write instead."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock

import pytest

from fivestage import InvalidAppError, Pipeline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


async def good(query: Any, ctx: Any) -> Any:
    """Take what a stage takes."""


async def one(query: Any) -> Any:
    """Take too little."""


def three(query: Any, ctx: Any, more: Any) -> Any:
    """Take too much."""


def keyword(query: Any, ctx: Any, *, more: Any) -> Any:
    """Take what nothing gives it."""


async def streams(_query: Any, _ctx: Any) -> AsyncIterator[int]:
    """Yield on the loop."""
    yield 1


def yields(_query: Any, _ctx: Any) -> Iterator[int]:
    """Yield in a thread."""
    yield 1


class Callable3:
    """An object whose call takes too much."""

    async def __call__(self, query: Any, ctx: Any, more: Any) -> Any:
        """Take three."""


class Streams:
    """An object whose call yields."""

    async def __call__(self, _query: Any, _ctx: Any) -> AsyncIterator[int]:
        """Yield."""
        yield 1


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (
            lambda: Pipeline().node("mine", limits=2),  # type: ignore[call-arg]
            "node 'mine': app.node has no argument 'limits' (did you mean 'limit'?); it has name, intents,",
        ),
        (
            lambda: Pipeline().batch_node("mine", max_sizes=2),  # type: ignore[call-arg]
            "node 'mine': app.batch_node has no argument 'max_sizes' (did you mean 'max_size'?); it has",
        ),
        (
            lambda: Pipeline().add_node("mine", object(), zzz=2),  # type: ignore[call-arg]
            "node 'mine': app.add_node has no argument 'zzz'; it has name, node, intents, not_failures,",
        ),
    ],
)
def test_an_argument_that_a_node_does_not_have(declare: Callable[[], Any], said: str) -> None:
    """The error names the arguments that there are, and the one that may have been meant."""
    with pytest.raises(InvalidAppError) as raised:
        declare()
    assert str(raised.value).startswith(said)


WRONG = {
    "too few": (one, "one(query: 'Any') -> 'Any' cannot be called with (query, ctx), too many positional"),
    "too many": (three, "missing a required argument: 'more'; declare it as def three(query, ctx)"),
    "by keyword": (keyword, "missing a required"),
    "async generator": (streams, "streams is a generator; return the result instead of yielding it"),
    "generator": (yields, "yields is a generator"),
    "partial generator": (functools.partial(yields), "is a generator"),
    "object": (Callable3(), "declare it as async def Callable3(query, ctx)"),
    "generator object": (Streams(), "Streams is a generator"),
    "class": (Callable3, "got the class Callable3; pass an object: Callable3(...)"),
    "no function": (7, "expected a function (query, ctx), got int"),
}
STAGES: dict[str, Callable[[Any], Any]] = {
    "intent": lambda function: Pipeline().intent(function),
    "decision": lambda function: Pipeline().decision(function),
    "validation": lambda function: Pipeline().validation(function),
    "reflection": lambda function: Pipeline().reflection(function),
    "mine": Pipeline().node("mine"),
    "mine.validate": lambda function: Pipeline().node("mine", validate=function),
}


@pytest.mark.parametrize(("function", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("where", STAGES)
def test_wrong_callables_are_rejected_at_declaration(where: str, function: Any, text: str) -> None:
    """Wrong callables are rejected at declaration, with a reason, whatever they are declared for."""
    with pytest.raises(InvalidAppError) as raised:
        STAGES[where](function)
    assert str(raised.value).startswith(f"{where}: ")
    assert text in str(raised.value)


def decorated(function: Any) -> Any:
    """A decorator that adds an argument, as those of frameworks do."""

    @functools.wraps(function)
    async def adding(query: Any, ctx: Any) -> Any:
        return function(query, ctx, more=1)

    return adding


@pytest.mark.parametrize("where", STAGES)
@pytest.mark.parametrize(
    "function",
    [
        good,
        lambda query, ctx, more=1: None,  # noqa: ARG005
        lambda *both: both,
        functools.partial(three, more=1),
        decorated(keyword),
        AsyncMock(),
        Mock(),
        max,
        print,
    ],
    ids=["async", "default", "star", "partial", "decorated", "async mock", "mock", "no signature", "in C"],
)
def test_all_usable_callables_are_accepted(where: str, function: Any) -> None:
    """Decorated functions, test doubles and C functions are accepted, also without a signature."""
    STAGES[where](function)


@pytest.mark.parametrize(
    ("intents", "text"),
    [
        ("greeting", "intents is the text 'greeting', not a set; write intents={'greeting'}"),
        ({1}, 'intents must be a set of texts such as {"greeting"}'),
        (b"greeting", "must be a set of texts"),
        (7, "must be a set of texts"),
        ([["greeting"]], "must be a set of texts"),
    ],
)
def test_intents_are_a_set_of_texts(intents: Any, text: str) -> None:
    """A string would be taken as a set of letters and the node would never be called: it is rejected."""
    with pytest.raises(InvalidAppError, match="node 'mine': ") as raised:
        Pipeline().node("mine", intents=intents)
    assert text in str(raised.value)
    with pytest.raises(InvalidAppError, match="node 'mine': "):
        Pipeline().add_node("mine", Matriz(), intents=intents)


@pytest.mark.parametrize(
    ("name", "text"),
    [(good, 'write @app.node("good") instead of @app.node'), ("", "got ''"), (None, "got None")],
)
def test_a_node_has_a_name(name: Any, text: str) -> None:
    """A decorator without parentheses is rejected: it would take the function as a name."""
    with pytest.raises(InvalidAppError) as raised:
        Pipeline().node(name)
    assert text in str(raised.value)


class Matriz:
    """A MATRIZ node."""

    def process(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer."""
        return request


class Typed(Matriz):
    """One that takes more than it is given."""

    def process(self, request: dict[str, Any], more: int) -> dict[str, Any]:  # type: ignore[override]
        """Answer."""
        return {"more": more, **request}


class Unsure(Matriz):
    """One whose check takes nothing."""

    def validate_output(self) -> bool:
        """Say yes."""
        return True


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Typed(), "node 'mine', its process: process"),
        (Unsure(), "node 'mine', its validate_output: validate_output"),
    ],
)
def test_methods_of_matriz_nodes_are_checked(node: Any, text: str) -> None:
    """Methods of MATRIZ nodes take exactly one argument."""
    with pytest.raises(InvalidAppError) as raised:
        Pipeline().add_node("mine", node)
    assert text in str(raised.value)


def test_replacing_a_node_of_ones_own_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Replacing one's own node is logged with both places; replacing a built-in node is not."""
    app = Pipeline()
    app.node("math")(good)
    assert caplog.messages == []
    app.node("math")(three_with_defaults)
    app.add_node("math", Matriz())
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    places = [f"{__file__}:{code.co_firstlineno}" for code in map(code_of, REPLACING)]
    assert caplog.messages == [
        f"node 'math' at {places[1]} replaces the one at {places[0]}",
        f"node 'math' at {places[2]} replaces the one at {places[1]}",
    ]


def test_declaring_a_stage_again_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With both places; replacing the built-in stage is not logged."""
    app = Pipeline()
    app.intent(good)
    assert caplog.messages == []
    app.intent(functools.partial(three_with_defaults, more=1))
    places = [f"{__file__}:{code_of(one).co_firstlineno}" for one in (good, three_with_defaults)]
    assert caplog.messages == [f"stage 'intent' at {places[1]} replaces the one at {places[0]}"]


def three_with_defaults(query: Any, ctx: Any, more: Any = None) -> Any:
    """Another node."""


def code_of(function: Any) -> Any:
    """Return the place where it was written."""
    return function.__code__


REPLACING = good, three_with_defaults, Matriz.process
