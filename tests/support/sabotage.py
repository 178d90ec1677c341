"""A pipeline whose nodes break the service's own Kafka clients: ``fivestage run support.sabotage:app``.

A question names the part to break. A query that is fetched again, because its answer was not committed,
breaks nothing the second time.
"""

from __future__ import annotations

import asyncio
import operator
import time
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer

from fivestage import Pipeline, Query, StageContext
from fivestage.kafka.producer.client import ProducerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATHS = {
    "fetch": "_fetcher._fetch_task",
    "group": "_coordinator._coordination_task",
    "heartbeat": "_coordinator._heartbeat_task",
    "position": "_coordinator._commit_refresh_task",
}
"""The attributes of aiokafka's background tasks."""
SENDER = "fivestage sender to "
"""The service's own tasks, which live as long as there is something to send."""
GAP = 7

app = Pipeline(builtins=False)
_done: set[str] = set()
_clients: list[Any] = []


@app.decision
async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input.partition(" ")[0]


@app.node("work")
async def _work(query: Query, _ctx: StageContext) -> str:
    await asyncio.sleep(0.005)
    return query.user_input


@app.node("kill")
async def _kill(query: Query, _ctx: StageContext) -> str:
    """End one of the clients' background tasks."""
    name = query.user_input.split()[1]
    client = the(AIOKafkaConsumer)

    def found() -> Any:
        if name != "sender":
            return operator.attrgetter(PATHS[name])(client)
        return next((task for task in asyncio.all_tasks() if task.get_name().startswith(SENDER)), None)

    async def kill() -> None:
        while (task := found()) is None:
            await asyncio.sleep(0)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)

    return once(query, client, kill)


@app.node("gap")
async def _gap(query: Query, _ctx: StageContext) -> str:
    """Skip some of the producer's sequence numbers, as a rejected batch does."""
    producer = [one for one in _clients if isinstance(one, ProducerClient)][-1]

    async def leave_out() -> None:
        numbers = producer.numbers
        for partition in numbers:
            numbers[partition] += GAP

    return once(query, producer.client, leave_out)


@app.node("hang")
async def _hang(query: Query, _ctx: StageContext) -> str:
    """Make the stop of the clients hang: for ever, uncancellable, or with the loop or the lock held."""
    how = query.user_input.split()[1]

    async def stop(_client: object) -> None:
        while True:
            try:
                await hang(how)
            except asyncio.CancelledError:
                continue

    for kind in (AIOKafkaConsumer, ProducerClient):
        setattr(kind, "stop", stop)  # noqa: B010 - no assignment to a method for mypy
    return how


async def hang(how: str) -> None:
    """Do not return for an hour."""
    if how == "await":
        await asyncio.sleep(3600)
    elif how == "loop":
        time.sleep(3600)  # noqa: ASYNC251 - that is the point
    else:
        import ctypes  # noqa: PLC0415 - for this only

        ctypes.PyDLL(None).sleep(3600)  # PyDLL holds the interpreter's lock


@app.node("tasks")
async def _tasks(_query: Query, _ctx: StageContext) -> int:
    """Count the tasks on the loop that serves Kafka."""
    return len(asyncio.all_tasks(the(AIOKafkaConsumer)._loop))


def the(kind: type[Any]) -> Any:
    """Return this process's running client of this kind; the newer one while another is being closed."""
    [*_, found] = [one for one in _clients if isinstance(one, kind) and not one._closed]
    return found


def once(query: Query, client: Any, action: Callable[[], Coroutine[Any, Any, None]]) -> str:
    """Run on the client's loop, unless this query did it before."""
    if query.query_id in _done:
        return "done before"
    _done.add(query.query_id)
    asyncio.run_coroutine_threadsafe(action(), client._loop)
    return "done"


def _remember(kind: type) -> None:
    """Record new clients: the garbage collector does not list frozen objects."""
    make: Any = kind.__init__  # type: ignore[misc] # of this class, which no other derives from

    def make_and_note(self: object, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        _clients.append(self)

    kind.__init__ = make_and_note  # type: ignore[misc]


_remember(AIOKafkaConsumer)
_remember(ProducerClient)
