"""Resource declarations and their overrides in tests."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import InvalidAppError, Pipeline, ResourceError, StageContext
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def context() -> StageContext:
    """Build a context as a test of a node does."""
    return StageContext("prod", 1.0, lambda: 0.0, StageType.PROCESSING)


async def http() -> AsyncIterator[str]:
    """A client."""
    yield "client"


def model() -> Iterator[str]:
    """A model."""
    yield "model"


def plain() -> str:
    """Yield nothing."""
    return "value"


async def awaited() -> str:
    """Yield nothing."""
    return "value"


def takes(url: str) -> Iterator[str]:
    """Take an argument."""
    yield url


async def takes_two(query: Any, ctx: Any) -> AsyncIterator[Any]:
    """Take the arguments of a node."""
    yield query, ctx


@contextlib.contextmanager
def managed() -> Iterator[str]:
    """Be a context manager already."""
    yield "value"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (plain, "resource plain: expected a generator function, got a `def` without yield; write `async def"),
        (awaited, "resource awaited: expected a generator function, got an `async def` without yield"),
        (managed, "without @contextmanager"),
        (dict, "resource dict: expected a generator function, got a class; write"),
        (functools.partial(takes, "x"), "got a partial"),
        (model(), "got a generator"),
        ("model", "got a str"),
        (takes, "resource takes: it takes (url: 'str') -> 'Iterator[str]', but is called without arguments"),
        (takes_two, "read what it needs inside the function"),
    ],
)
def test_invalid_declarations_are_rejected(function: Any, said: str) -> None:
    """Anything but a generator function without arguments is rejected at declaration, with the fix."""
    app = Pipeline()
    with pytest.raises(InvalidAppError) as caught:
        app.resource(function)
    assert said in str(caught.value)
    assert dict(app.resources) == {}


def test_names_are_taken_once() -> None:
    """Two resources of one name are rejected: one of them would never be used."""
    app = Pipeline()
    app.resource(model)
    with pytest.raises(
        InvalidAppError, match=r"resource model: there is one of that name already; rename one"
    ):
        app.resource(model)


def test_declared() -> None:
    """Resources keep the order of declaration, and say how often they are opened."""
    app = Pipeline()
    client, loaded = app.resource(http), app.resource(model)
    assert list(app.resources.values()) == [client, loaded]
    assert repr(client) == "<Resource http, once per event loop>"
    assert repr(loaded) == "<Resource model, once per process>"


def test_a_context_made_by_hand_says_what_to_do() -> None:
    """A hand-made context has nothing open, and the error names the line to write."""
    loaded = Pipeline().resource(model)
    with pytest.raises(ResourceError, match=r"'model' is not open.*`with app.override\(model, fake\):`"):
        context().use(loaded)


def test_overrides_nest() -> None:
    """The innermost override wins and ends with its ``with``, also for equal fakes."""
    app = Pipeline()
    loaded = app.resource(model)
    seen = list[Any]()
    with app.override(loaded, [1]):
        with app.override(loaded, [2]), contextlib.suppress(LookupError):
            with app.override(loaded, [1]):
                seen.append(context().use(loaded))
            seen.append(context().use(loaded))
            raise LookupError
        seen.append(context().use(loaded))
    assert seen == [[1], [2], [1]]
    with pytest.raises(ResourceError):
        context().use(loaded)


async def test_an_override_stands_in_for_an_async_one() -> None:
    """An asynchronous resource can be overridden in the test of an asynchronous node."""
    app = Pipeline()
    client = app.resource(http)
    with app.override(client, "fake"):
        assert context().use(client) == "fake"


def test_an_async_one_is_refused_outside_a_loop() -> None:
    """A ``def`` node that uses a loop's resource fails in its test too, with the fix."""
    app = Pipeline()
    client = app.resource(http)
    with (
        app.override(client, "fake"),
        pytest.raises(ResourceError, match=r"make the stage or node an `async def`"),
    ):
        context().use(client)


def test_only_its_own_are_overridden() -> None:
    """Overriding a resource of another Pipeline, or another object, raises."""
    other = Pipeline().resource(model)
    with (
        pytest.raises(InvalidAppError, match="does not belong to this Pipeline"),
        Pipeline().override(other, 1),
    ):
        pass
