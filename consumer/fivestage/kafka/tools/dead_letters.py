"""Reads dead letters and writes their records to the input topic again, for the commands."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from aiokafka.errors import MessageSizeTooLargeError

from fivestage.core.codec.dead_letter import DeadLetter, Mark, mark_headers, read_letter, replay_headers
from fivestage.kafka import topics
from fivestage.kafka.tools.client import acknowledged, answered, as_broker_error, follow, open_producer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Sequence

    from aiokafka import AIOKafkaProducer

    from fivestage.core.codec.dead_letter import Selection
    from fivestage.settings import Settings

BATCH = 100
"""Most records written before their letters are marked; a crash in between may replay them twice."""


class Fate(StrEnum):
    """What became of a selected letter."""

    REPLAYED = "replayed"
    BEFORE = "replayed before"
    NO_BYTES = "without its bytes"
    REFUSED = "refused by the broker"


class ReplayOutcome(NamedTuple):
    """A selected letter and what became of it."""

    letter: DeadLetter
    fate: Fate


async def letters(settings: Settings) -> AsyncGenerator[DeadLetter | Mark, None]:
    """Read all dead letters, and the marks of those that were replayed.

    Raises:
        ConfigurationError: the topic does not exist or may not be read.
    """
    reading = follow(settings, settings.topics.dead_letters, from_beginning=True, to_end=True)
    async with aclosing(reading) as records:
        async for record in records:
            if (found := read_letter(record)) is not None:
                yield found


async def replay(
    settings: Settings, selection: Selection, *, limit: int = 0, again: bool = False, dry_run: bool = False
) -> AsyncGenerator[ReplayOutcome, None]:
    """Write the records of selected dead letters to their topic again; yields every selected letter.

    A replayed letter is marked and not replayed again. Run one replay at a time: two would not see the
    marks of each other in time.

    Args:
        settings: Where to connect and how.
        selection: Which letters, all of one topic.
        limit: How many records to write at most; 0 for all.
        again: Include letters that were replayed before.
        dry_run: Write nothing.

    Raises:
        ConfigurationError: a topic does not exist, or a right is missing.
        BrokerError: the broker does not answer, a record cannot be sent, or a mark is rejected.
    """
    marked = {one async for one in letters(settings) if isinstance(one, Mark)}
    topic = selection.topic or settings.topics.only_input()
    async with _Replayer(settings, topic, dry_run=dry_run) as replayer:
        waiting: list[DeadLetter] = []
        chosen = 0
        async with aclosing(letters(settings)) as found:
            async for letter in found:
                if isinstance(letter, Mark) or not selection.matches(letter):
                    continue
                fate = _fate(letter, marked, again=again)
                if fate is not Fate.REPLAYED:
                    yield ReplayOutcome(letter, fate)
                    continue
                waiting.append(letter)
                chosen += 1
                if len(waiting) == BATCH or chosen == limit:
                    for outcome in await replayer.write(waiting):
                        yield outcome
                    waiting = []
                if chosen == limit:
                    return
        for outcome in await replayer.write(waiting):
            yield outcome


def _fate(letter: DeadLetter, marked: set[Mark], *, again: bool) -> Fate:
    if not letter.has_its_bytes:
        return Fate.NO_BYTES
    if not again and Mark(letter.place.partition, letter.place.offset) in marked:
        return Fate.BEFORE
    return Fate.REPLAYED


class _Replayer:
    """Writes the records of dead letters to one topic, and a mark to the topic of each letter."""

    _producer: AIOKafkaProducer

    def __init__(self, settings: Settings, topic: str, *, dry_run: bool) -> None:
        self._settings = settings
        self._topic = topic
        self._dry_run = dry_run
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def _open(self) -> None:
        """Connect a new producer, in place of the last one."""
        await self._opened.aclose()
        names = self._topic, self._settings.topics.dead_letters
        opening = open_producer(self._settings, *names, max_request_size=topics.DEAD_LETTER_BYTES)
        self._producer = await self._opened.enter_async_context(opening)

    async def write(self, chosen: Sequence[DeadLetter]) -> list[ReplayOutcome]:
        """Write the records of letters, then mark the letters whose records the broker has stored."""
        if self._dry_run:
            return [ReplayOutcome(letter, Fate.REPLAYED) for letter in chosen]
        stored = await self._write_records(chosen)
        for index, letter in enumerate(chosen):
            if not stored[index]:  # one rejected record fails its whole batch: try each alone
                [stored[index]] = await self._write_records([letter])
        pairs = list(zip(chosen, stored, strict=True))
        await acknowledged([await self._send_mark(letter) for letter, is_stored in pairs if is_stored])
        return [
            ReplayOutcome(letter, Fate.REPLAYED if is_stored else Fate.REFUSED) for letter, is_stored in pairs
        ]

    async def _write_records(self, chosen: Sequence[DeadLetter]) -> list[bool]:
        """Write the records of letters; returns for each whether the broker has stored it.

        Raises:
            BrokerError: the broker does not answer, or a record cannot be sent.
        """
        sent = [await self._send_record(letter) for letter in chosen]
        await answered([future for future in sent if future is not None])
        if any(future is not None and future.exception() is not None for future in sent):
            await self._open()  # aiokafka has counted what was refused: the broker would refuse what follows
        return [future is not None and future.exception() is None for future in sent]

    async def _send_record(self, letter: DeadLetter) -> asyncio.Future[object] | None:
        """Send a record; None if it is larger than the producer may send."""
        record = letter.record
        with as_broker_error(f"the record of dead letter {letter.place} cannot be sent"):
            try:
                sent: asyncio.Future[object] = await self._producer.send(
                    self._topic, record.value, key=record.key, headers=replay_headers(letter)
                )
            except MessageSizeTooLargeError:
                return None
        return sent

    async def _send_mark(self, letter: DeadLetter) -> asyncio.Future[object]:
        place = letter.place
        with as_broker_error(f"dead letter {place} was replayed and cannot be marked"):
            sent: asyncio.Future[object] = await self._producer.send(
                place.topic, key=str(place).encode(), partition=place.partition, headers=mark_headers(letter)
            )
        return sent
