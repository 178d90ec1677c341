"""Mistakes of authors that type checkers find: one in each line with an ``ignore``, which must be needed.

Checked by mypy in strict mode (``make check``), and by pyright where it is installed
(``tests/unit/test_typing.py``); never run. pyright reports an ``ignore`` that is not needed, as mypy does.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fivestage import Pipeline, Query, StageContext, StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

app = Pipeline()


class Search(BaseModel):
    """The settings of a node."""

    url: str


@app.resource
def words() -> Iterator[list[str]]:
    """Words of the process."""
    yield ["a"]


@app.resource
async def size() -> AsyncIterator[int]:
    """A number of the event loop."""
    yield 1


@app.node("members", intents={"a"}, settings=Search)
async def members(query: Query, ctx: StageContext[Search]) -> float:
    """Misspelt members of the query, the context and the settings."""
    print(query.user_imput)  # type: ignore[attr-defined]  # noqa: T201
    print(ctx.settings.ulr)  # type: ignore[attr-defined]  # noqa: T201
    ctx.atempt = 2  # type: ignore[attr-defined]
    return ctx.remaning_ms()  # type: ignore[attr-defined,no-any-return]


@app.node("resources", intents={"a"})
async def resources(query: Query, ctx: StageContext) -> int:
    """Resources of another type."""
    count: int = ctx.use(words)  # type: ignore[assignment]
    text: str = ctx.use(size)  # type: ignore[assignment]
    ctx.use(words).get(query.user_input)  # type: ignore[attr-defined]
    ctx.use(list)  # type: ignore[arg-type]
    url: int = app.settings("resources", Search).url  # type: ignore[assignment]
    return count + len(text) + url


@app.node("one argument")  # type: ignore[type-var]
async def one_argument(query: Query) -> str:
    """A node without the context."""
    return query.user_input


@app.node("three arguments")  # type: ignore[type-var]
def three_arguments(query: Query, ctx: StageContext, more: int) -> str:
    """A node with an argument that it is not called with."""
    return f"{query} {ctx} {more}"


@app.node("wrong way round")  # type: ignore[type-var]
def wrong_way_round(ctx: StageContext, query: Query) -> str:
    """A node with its arguments in another order."""
    return f"{query} {ctx}"


@app.validation  # type: ignore[type-var]
def answer_only(answer: Any) -> bool:
    """A stage with another argument."""
    return bool(answer)


@app.resource  # type: ignore[arg-type]
def not_a_generator() -> int:
    """A resource that returns instead of yielding."""
    return 1


def check(query: Query) -> bool:
    """A node's own check without the context."""
    return bool(query)


app.node("checked", validate=check)  # type: ignore[arg-type]
app.node("intents", intents=3)  # type: ignore[arg-type]
app.node("settings", settings=Search(url=""))  # type: ignore[arg-type]
app.node("misspelt", intentions={"a"})  # type: ignore[call-arg]
StageType.PROCESING  # type: ignore[attr-defined]  # noqa: B018
