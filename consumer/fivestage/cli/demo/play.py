"""Plays the demo: starts broker and service, writes the inputs, waits for the results, audits the topics."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import defaultdict
from typing import TYPE_CHECKING

from fivestage.cli.demo.audit import Audit, audit
from fivestage.cli.demo.questions import in_round
from fivestage.cli.demo.service_process import ServiceProcess
from fivestage.errors import FivestageError
from fivestage.kafka.embedded_broker import FETCH_WAIT_MS, EmbeddedBroker
from fivestage.kafka.tools.client import QueryProducer, follow
from fivestage.settings import Settings
from fivestage_schemas import PipelineResult
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from fivestage.cli.demo.questions import Input
    from fivestage.cli.demo.view import DemoView
    from fivestage.core.records import Record

ASK_EVERY_S = 0.07
"""The interval between two inputs, slow enough to watch."""
FEED_S = 4.0
"""How long writing all inputs may take; with many inputs the interval is shorter."""
ANSWERS_S = 20.0
"""How long after the first input the last result may arrive."""
EVENTS_S = 5.0
"""How long after the last result its other events may arrive."""
_LATE = f"not everything was answered within {ANSWERS_S:.0f} s"
APP = "fivestage.cli.demo.app:app"
ROLES = ("queries", "stage_results", "results", "timeouts", "dead_letters")


class DemoError(FivestageError):
    """The demo could not be completed; ``log`` is an excerpt of the service's log."""

    def __init__(self, text: str, log: str) -> None:
        super().__init__(text)
        self.log = log


async def play(
    inputs: Sequence[Input], view: DemoView, served: Callable[[Audit, ServiceProcess], None] | None = None
) -> Audit:
    """Write the inputs, wait for the results, end the service and audit the topics.

    With *served*, the topics are audited while the service runs; then *served* is called with what was found
    and the service, and the questions are repeated until Ctrl-C.

    Raises:
        DemoError: the service failed.
        ConfigurationError: the broker cannot be started.
    """
    view.note("starting the embedded broker")
    names = Settings.load().topics.all
    variables = {"FIVESTAGE_KAFKA__FETCH_MAX_WAIT_MS": str(FETCH_WAIT_MS)}
    async with (
        EmbeddedBroker(names) as broker,
        ServiceProcess(broker.bootstrap, APP, environment=variables) as service,
    ):
        settings = Settings.load(overrides={"kafka": {"bootstrap_servers": broker.bootstrap}})
        complete = True
        try:
            view.note("starting the service")
            await service.ready()
            view.note(f"asking {len(inputs)} questions")
            complete = await _ask(settings, inputs, view, service)
            if served is not None:
                found = await _audit_running(settings, len(inputs))
                view.stop()
                served(found, service)
                await _repeat(settings, inputs, service)
                await service.stop()
                return found
            view.note("draining the service, then reading all topics")
            await service.stop()
            found = audit(await _read_all(settings), expected=len(inputs))
        except FivestageError as error:
            text = str(error) if complete else f"{_LATE}; then {error}"
            raise DemoError(text, service.excerpt()) from None
        if not complete:
            found.problems.insert(0, _LATE)
        if any(one.question in service.log() for one in inputs):
            found.problems.append("the service's log has the text of a question in it")
        return found


async def _audit_running(settings: Settings, expected: int) -> Audit:
    """Audit the topics, again until all adds up: other events of a query may follow its result."""
    ends_at = asyncio.get_running_loop().time() + EVENTS_S
    while (found := audit(await _read_all(settings), expected=expected)).problems:
        if asyncio.get_running_loop().time() > ends_at:
            break
    return found


async def _repeat(settings: Settings, inputs: Sequence[Input], service: ServiceProcess) -> None:
    """Write the inputs again and again, with other ids, until Ctrl-C."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()

    async def wait() -> None:
        await interrupted.wait()

    async def feed() -> None:
        for number in itertools.count(2):
            await _feed(settings, in_round(inputs, number))

    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        await _first(asyncio.create_task(wait()), feed(), service.fail_when_it_ends())
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _ask(settings: Settings, inputs: Sequence[Input], view: DemoView, service: ServiceProcess) -> bool:
    """Write the inputs and show the results; return False if they did not all arrive in time."""
    following = asyncio.create_task(_follow(settings, len(inputs), view))
    others = [_feed(settings, inputs), service.fail_when_it_ends()]
    try:
        async with asyncio.timeout(ANSWERS_S):
            await _first(following, *others)
    except TimeoutError:
        return False
    return True


async def _first(main: asyncio.Task[None], *others: Coroutine[None, None, None]) -> None:
    """Wait until *main* is done, or one of all fails, then cancel the others."""
    pending = {main, *map(asyncio.ensure_future, others)}
    try:
        while not main.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _feed(settings: Settings, inputs: Sequence[Input]) -> None:
    loop = asyncio.get_running_loop()
    started_at, every_s = loop.time(), min(ASK_EVERY_S, FEED_S / len(inputs))
    async with QueryProducer(settings) as producer:
        for number, one in enumerate(inputs):
            await asyncio.sleep(max(0.0, started_at + every_s * number - loop.time()))
            await producer.send(one.value, headers=one.headers)


async def _follow(settings: Settings, expected: int, view: DemoView) -> None:
    """Show results and dead letters until there is one for each input."""
    topics = settings.topics
    ended: set[object] = set()
    records = follow(settings, topics.results, topics.dead_letters, from_beginning=True)
    async with contextlib.aclosing(records):
        async for record in records:
            if record.topic == topics.results:
                result = PipelineResult.model_validate_json(record.value or b"")
                view.result(result)
                ended.add(result.query_id)
            elif not record.key:  # an input with an id has a result too
                view.dead_letter(dict(record.headers).get(h.DLQ_REASON, b"?").decode())
                ended.add((record.partition, record.offset))
            if len(ended) == expected:
                return


async def _read_all(settings: Settings) -> dict[str, list[Record]]:
    """Read all records of the five topics, by the topics' names in the settings."""
    roles = {getattr(settings.topics, role): role for role in ROLES}
    found: dict[str, list[Record]] = defaultdict(list)
    async for record in follow(settings, *roles, from_beginning=True, to_end=True):
        found[roles[record.topic]].append(record)
    return {role: found[role] for role in ROLES}
