"""Dead letters, for commands: reading them, and writing their records to the input topic again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from fivestage.core.codec.dead_letter import DeadLetter, Mark, mark_headers, read_letter, replay_headers
from fivestage.errors import BrokerError, ConfigurationError
from fivestage.kafka import topics
from fivestage.kafka.connection.preflight import reachable_options
from fivestage.kafka.tools.client import SEND_TIMEOUT_S, acknowledged, connect, end, follow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from fivestage.core.codec.dead_letter import Selection
    from fivestage.settings import Settings

BATCH = 100
"""So many are written, then marked: what a crash in between would replay once more."""


class Fate(StrEnum):
    """What becomes of a letter that was selected."""

    REPLAYED = "replayed"
    BEFORE = "replayed before"
    NO_BYTES = "without its bytes"
    REFUSED = "refused by the broker"


class ReplayOutcome(NamedTuple):
    """A letter, and what became of it."""

    letter: DeadLetter
    fate: Fate


async def letters(settings: Settings) -> AsyncGenerator[DeadLetter | Mark, None]:
    """All dead letters that are there, and the marks of those that were replayed.

    Raises:
        ConfigurationError: the topic is not there.
    """
    reading = follow(settings, settings.topics.dead_letters, from_beginning=True, to_end=True)
    async with aclosing(reading) as records:
        async for record in records:
            if (found := read_letter(record)) is not None:
                yield found


async def replay(
    settings: Settings, selection: Selection, *, limit: int = 0, again: bool = False, dry_run: bool = False
) -> AsyncGenerator[ReplayOutcome, None]:
    """Write the records of dead letters to their topic again, and tell of each letter that was selected.

    Each is marked when it is written, and not written twice. That holds for one replay at a time.

    Args:
        settings: Where Kafka is.
        selection: Which letters; those of one topic.
        limit: How many at most; 0 = all.
        again: Also those that were replayed before.
        dry_run: Tell only.

    Raises:
        ConfigurationError: a topic is not there.
        BrokerError: the broker does not take them.
    """
    marked = {one async for one in letters(settings) if isinstance(one, Mark)}
    async with _Replayer(settings, selection.topic or settings.topics.only_input()) as replayer:
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
                    for told in await _write(replayer, waiting, dry_run=dry_run):
                        yield told
                    waiting = []
                if chosen == limit:
                    return
        for told in await _write(replayer, waiting, dry_run=dry_run):
            yield told


def _fate(letter: DeadLetter, marked: set[Mark], *, again: bool) -> Fate:
    if not letter.has_its_bytes:
        return Fate.NO_BYTES
    if not again and Mark(letter.place.partition, letter.place.offset) in marked:
        return Fate.BEFORE
    return Fate.REPLAYED


async def _write(replayer: _Replayer, chosen: Sequence[DeadLetter], *, dry_run: bool) -> list[ReplayOutcome]:
    if dry_run:
        return [ReplayOutcome(letter, Fate.REPLAYED) for letter in chosen]
    return await replayer.write(chosen)


class _Replayer:
    """Writes records to one topic, and marks to that of the dead letters."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic

    async def __aenter__(self) -> Self:
        letters_topic = self._settings.topics.dead_letters
        found = await topics.describe(self._settings, [self._topic, letters_topic])
        for name in (self._topic, letters_topic):
            problem = topics.problem_of(found.get(name), name, is_input=False)
            if problem is not None:
                raise ConfigurationError(problem)
        self._producer = AIOKafkaProducer(
            **await reachable_options(self._settings.kafka),
            enable_idempotence=True,
            max_request_size=topics.DEAD_LETTER_BYTES,
            linger_ms=5,
        )
        await connect(self._producer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._producer)

    async def write(self, chosen: Sequence[DeadLetter]) -> list[ReplayOutcome]:
        """Write the records of letters; mark the letters whose records the broker has taken."""
        taken = await self._taken(chosen)
        for index, letter in enumerate(chosen):
            if not taken[index]:  # one that is refused takes its whole batch along: once more, by itself
                [taken[index]] = await self._taken([letter])
        pairs = list(zip(chosen, taken, strict=True))
        await acknowledged([await self._send_mark(letter) for letter, is_taken in pairs if is_taken])
        return [
            ReplayOutcome(letter, Fate.REPLAYED if is_taken else Fate.REFUSED) for letter, is_taken in pairs
        ]

    async def _taken(self, chosen: Sequence[DeadLetter]) -> list[bool]:
        """Write records; of each, whether the broker has it.

        Raises:
            BrokerError: it does not answer.
        """
        sent = [await self._send_record(letter) for letter in chosen]
        waiting = [future for future in sent if future is not None]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=SEND_TIMEOUT_S)
            if late:
                raise BrokerError(f"{len(late)} records were not acknowledged within {SEND_TIMEOUT_S:.0f} s")
        return [future is not None and future.exception() is None for future in sent]

    async def _send_record(self, letter: DeadLetter) -> asyncio.Future[object] | None:
        """Hand a record to the client; None where that refuses it at once, for its size."""
        record = letter.record
        try:
            sent: asyncio.Future[object] = await self._producer.send(
                self._topic, record.value, key=record.key, headers=replay_headers(letter)
            )
        except MessageSizeTooLargeError:
            return None
        except KafkaError as error:
            text = f"the record of dead letter {letter.place} cannot be sent"
            raise BrokerError(f"{text}: {type(error).__name__}: {error}") from None
        return sent

    async def _send_mark(self, letter: DeadLetter) -> asyncio.Future[object]:
        place = letter.place
        try:
            sent: asyncio.Future[object] = await self._producer.send(
                place.topic, key=str(place).encode(), partition=place.partition, headers=mark_headers(letter)
            )
        except KafkaError as error:
            text = f"dead letter {place} was replayed and cannot be marked"
            raise BrokerError(f"{text}: {type(error).__name__}: {error}") from None
        return sent
