"""Poison pills on a real broker: payloads, headers, batches; dead letters listed and replayed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer

from fivestage_schemas import PipelineResult
from support.checker import (
    ONCE,
    check,
    committed,
    headers_of,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.feeder import event, write
from support.operations import Operator
from support.process import ServiceProcess
from support.wire import GZIP, bad_header_name, bomb, write_batch

from .test_commands import fivestage
from .test_service import settings_for

if TYPE_CHECKING:
    from confluent_kafka import Message

    from .broker import RealBroker, TopicSet

SECRET = b"correct-horse-battery-staple"
BOMB_BYTES = 300_000_000
MAX_MORE_MIB = 64
"""The memory limit of a bomb: its 0.3 MB, the room for decompression, and variation."""
PAYLOADS: dict[str, bytes | None] = {
    "empty": b"",
    "null": None,
    "no JSON": SECRET,
    "invalid UTF-8": b'{"query_id":"utf","user_input":"\xff\xfe"}',
    "BOM": b"\xef\xbb\xbf" + event("bom"),
    "NaN": b'{"query_id":"nan","user_input":"x","budget_ms":NaN}',
    "lone surrogate": b'{"query_id":"sur","user_input":"\\ud800"}',
    "100k digits": b'{"query_id":"dig","user_input":"x","budget_ms":' + b"9" * 100_000 + b"}",
    "depth 5000": b'{"query_id":"dep","context":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "depth 255": b'{"query_id":"d255","user_input":"x","context":' + b'{"a":' * 254 + b"1" + b"}" * 255,
    "1 MB of keys": json.dumps({f"key{number}": number for number in range(50_000)}).encode(),
    "wrong types": b'{"query_id":"typ","user_input":7}',
    "unknown version": b'{"query_id":"ver","user_input":"x","schema_version":"9"}',
    "missing id": b'{"user_input":"x"}',
    "huge id": event("x" * 5000),
    "NUL in the id": event("a\0b"),
    "control characters": b'{"query_id":"ctl","user_input":"a\x01b"}',
}
ANSWERED = {"typ", "ver", "d255"}
"""Those with a readable id."""


def peak_mib(process_id: int) -> float:
    """Return the peak memory of a process, in MiB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def letters(kafka: RealBroker, topics: TopicSet) -> list[Message]:
    """Return all dead letters."""
    return read_all(kafka.bootstrap, topics.dead_letters)


@pytest.mark.fault(29, 31)
def test_poison_payloads_and_headers(kafka: RealBroker, topics: TopicSet, record_property: Any) -> None:
    """Each has its one rejection, in order between answered queries; no log line quotes any."""
    huge = [("ce_id", b"x" * 500_000), ("traceparent", b"00-zz")] + [("x", b"1")] * 10_000
    write(kafka.bootstrap, topics.queries, [("k", value) for value in PAYLOADS.values()])
    write(kafka.bootstrap, topics.queries, [("k", event("huge", "fast"))], huge)
    write(kafka.bootstrap, topics.queries, [("k", event("good", "fast"))])
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(PAYLOADS) + 2)
        assert service.end() == 0
    found = letters(kafka, topics)
    assert sorted(str(one.value()) for one in found) == sorted(str(value) for value in PAYLOADS.values())
    assert all(SECRET.decode() not in value for one in found for value in headers_of(one).values())
    results = {
        result.query_id: str(result.error_type or result.status)
        for message in read_all(kafka.bootstrap, topics.results)
        for result in [PipelineResult.model_validate_json(message.value() or b"")]
    }
    assert results == {
        **dict.fromkeys(ANSWERED, "invalid_query"),
        "huge": "success",
        "good": "success",
    }
    assert SECRET.decode() not in json.dumps(service.log)
    record_property("payloads", len(PAYLOADS))
    report = check(kafka.bootstrap, topics, results, limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(30)
async def test_poison_on_the_wire(kafka: RealBroker, topics: TopicSet, record_property: Any) -> None:
    """A decompression bomb of 300 MB, and an invalid header name, are named, skipped, bounded."""
    good = [(f"q{number}", event(f"q{number}", "fast")) for number in range(300)]
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
    await producer.start()
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        assert service.process is not None
        write(kafka.bootstrap, topics.queries, good[:100])
        wait_for_results(kafka.bootstrap, topics.results, 100)
        before = peak_mib(service.process.pid)
        await write_batch(producer, topics.queries, 0, [b"x"], bomb(GZIP, BOMB_BYTES))
        for partition in (0, 1):
            await write_batch(producer, topics.queries, partition, [b"x"], bad_header_name)
        await producer.stop()
        write(kafka.bootstrap, topics.queries, good[100:])
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 303)
        more = peak_mib(service.process.pid) - before
        assert service.end() == 0
    assert more < MAX_MORE_MIB
    found = [headers_of(message) for message in letters(kafka, topics)]
    assert {one["dlq.reason"] for one in found} == {"corrupt_record"}
    details = sorted(one["dlq.detail"] for one in found)
    assert details == [
        *["it cannot be read from its batch (UnicodeDecodeError)"] * 2,
        "its decompressed batch is larger than 8388608 bytes (kafka.max_batch_bytes)",
    ]
    assert {message.value() for message in letters(kafka, topics)} == {None}
    ids = [headers_of(message)["ce_subject"] for message in read_all(kafka.bootstrap, topics.results)]
    assert sorted(ids) == sorted(name for name, _ in good)
    record_property("bomb_costs_mib", round(more, 1))


@pytest.mark.long
@pytest.mark.fault(30)
def test_batches_compressed_by_java_are_read(kafka: RealBroker, topics: TopicSet) -> None:
    """Batches of every codec, framed as by Java's producer, are read."""
    codecs = ("gzip", "snappy", "lz4", "zstd")
    ids: list[str] = []
    for codec in codecs:
        names = [f"{codec}{number}" for number in range(500)]
        ids += names
        lines = "".join(f'{{"query_id":"{name}","user_input":"fast"}}\n' for name in names)
        arguments = ("--topic", topics.queries, "--compression-codec", codec, "--batch-size", "200")
        kafka.exec_tool("kafka-console-producer", *arguments, input=lines.encode())
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 500 * len(codecs))
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    assert report.silent, report
    assert letters(kafka, topics) == []


@pytest.mark.fault(29)
def test_dead_letters_are_listed_and_replayed(kafka: RealBroker, topics: TopicSet) -> None:
    """Dead letters of a wrong setting are answered after a fix and a replay: once, with their own key."""
    wrong = settings_for(topics, lanes=["prod"])
    headers = [("ce_expirytime", b"2020-01-01T00:00:00Z"), ("x-own", b"1")]
    write(kafka.bootstrap, topics.queries, [("k", event("late", "fast", lane="canary"))], headers)
    write(kafka.bootstrap, topics.queries, [("k", event("a", "fast", lane="canary")), ("k", b"{")])
    with ServiceProcess("support.apps:load", kafka.bootstrap, wrong) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 3)
        assert service.end() == 0

    def dlq(*arguments: str) -> list[str]:
        ran = fivestage(kafka, topics.prefix, "dlq", *arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    listed = [json.loads(line) for line in dlq("list", "--json")]
    assert sorted(letter["reason"] for letter in listed) == ["not_json", "unknown_lane", "unknown_lane"]
    assert [line.partition(": ")[2] for line in dlq("replay", "--reason", "unknown_lane")] == ["replayed"] * 2
    assert [line.partition(": ")[2] for line in dlq("replay", "--reason", "unknown_lane")] == [
        "replayed before"
    ] * 2
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 5)
        assert service.end() == 0
    answered = [m for m in read_all(kafka.bootstrap, topics.results) if headers_of(m)["status"] == "success"]
    assert sorted(headers_of(message)["ce_subject"] for message in answered) == ["a", "late"]
    assert {message.key() for message in answered} == {b"k"}
    assert [json.loads(line)["replayed"] for line in dlq("list", "--json", "--reason", "unknown_lane")] == [
        True,
        True,
    ]
    assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 5
    report = check(kafka.bootstrap, topics, ["a", "late"], limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(29)
def test_a_rejected_replay_does_not_stop_the_others(kafka: RealBroker, topics: TopicSet) -> None:
    """The other letters are replayed once, however often the command runs; it exits with 1."""
    Operator(kafka.bootstrap).limit_records(topics.queries, 20_000)
    headers = {
        "reason": "unknown_lane",
        "topic": topics.queries,
        "partition": "0",
        "offset": "7",
        "timestamp": "1",
    }
    texts = {"small": "fast", "large": "x" * 30_000, "last": "fast"}
    values = [("one key", event(name, text)) for name, text in texts.items()]  # and so one partition
    marks = [(f"dlq.{name}", value.encode()) for name, value in headers.items()]
    write(kafka.bootstrap, topics.dead_letters, values, marks)
    for fate in ("replayed", "replayed before"):
        ran = fivestage(kafka, topics.prefix, "dlq", "replay")
        fates = sorted(line.partition(": ")[2] for line in ran.stdout.splitlines())
        assert (ran.returncode, fates) == (1, ["refused by the broker", fate, fate]), ran.stderr
    found = [json_of(message)["query_id"] for message in read_all(kafka.bootstrap, topics.queries)]
    assert found == ["small", "last"]


@pytest.mark.fault(29)
def test_a_flood_halts_its_partition_until_a_restart(kafka: RealBroker, topics: TopicSet) -> None:
    """The partition halts and commits nothing beyond; restarted without limits, all becomes dead letters."""
    flood: list[tuple[str | None, bytes | None]] = [("k", b"{")] * 50
    limits = settings_for(topics, dlq__max_consecutive=20, dlq__pause_ms=0)
    with ServiceProcess("support.apps:load", kafka.bootstrap, limits) as service:
        write(kafka.bootstrap, topics.queries, [*flood, ("k", event("after", "fast"))])
        service.wait_for("partition halted")
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 20)
        assert service.end() == 0
    assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 20
    assert len(letters(kafka, topics)) == 20
    limits = settings_for(topics, dlq__max_consecutive=0)
    with ServiceProcess("support.apps:load", kafka.bootstrap, limits) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 51)
        assert service.end() == 0
    assert len(letters(kafka, topics)) == 50
    report = check(kafka.bootstrap, topics, ["after"], limits=ONCE)
    assert report.silent, report
