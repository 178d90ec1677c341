from __future__ import annotations

import base64
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import Producer

from support.checker import headers_of, read_all

if TYPE_CHECKING:
    from confluent_kafka import Message

    from .conftest import Fivestage, Ran

pytestmark = [pytest.mark.broker, pytest.mark.fault(29)]

SECRET = "correct-horse"  # noqa: S105 - stands for what a payload may hold


class Post(NamedTuple):
    """Two topics of the test, and the commands on them."""

    fivestage: Fivestage
    bootstrap: str
    queries: str
    letters: str

    def dlq(self, *arguments: str) -> Ran:
        """Run ``fivestage dlq``."""
        return self.fivestage(
            *("dlq", *arguments, "--bootstrap", self.bootstrap),
            TOPICS__QUERIES=self.queries,
            TOPICS__DEAD_LETTERS=self.letters,
        )

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the output of ``list --json``."""
        ran = self.dlq("list", "--json", *arguments)
        assert (ran.code, ran.err) == (0, "")
        return [json.loads(line) for line in ran.out.splitlines()]

    def add(self, reason: str, offset: int, *, value: bytes | None = b"{", **more: Any) -> None:
        """Write a dead letter as the service does."""
        headers = {
            "dlq.reason": reason,
            "dlq.detail": f"about {offset}",
            "dlq.topic": more.pop("topic", self.queries),
            "dlq.partition": "1",
            "dlq.offset": str(offset),
            "dlq.timestamp": "1000",
            **more.pop("headers", {}),
        }
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all"})
        producer.produce(self.letters, value, key=b"k", headers=list(headers.items()), **more)
        assert producer.flush(20) == 0

    def replayed(self) -> list[Message]:
        """Return the records written to the input topic."""
        return [message for message in read_all(self.bootstrap, self.queries) if message.key() != b"first"]


@pytest.fixture
def post(fivestage: Fivestage, bootstrap: str) -> Post:
    """Lend topics of this test alone; the embedded broker creates them at the first write."""
    name = uuid.uuid4().hex[:8]
    made = Post(fivestage, bootstrap, f"queries-{name}", f"letters-{name}")
    producer = Producer({"bootstrap.servers": bootstrap})
    for topic in (made.queries, made.letters):
        producer.produce(topic, b"{}", key=b"first")
    assert producer.flush(20) == 0
    return made


def test_list(post: Post) -> None:
    """The list has reason, record and size, the content only on request; foreign records are skipped."""
    post.add("not_json", 7, value=SECRET.encode())
    post.add("too_large", 8, value=None, headers={"dlq.truncated": "true"})
    [first, second] = sorted(post.listed(), key=lambda letter: letter["source"]["offset"])
    assert first["source"] == {"topic": post.queries, "partition": 1, "offset": 7, "timestamp": 1000}
    assert (first["reason"], first["detail"], first["size"]) == ("not_json", "about 7", len(SECRET))
    assert (first["has_its_bytes"], first["replayed"]) == (True, False)
    assert (second["reason"], second["has_its_bytes"]) == ("too_large", False)
    table = post.dlq("list")
    assert (table.code, table.err) == (0, "")
    assert table.out.splitlines()[0].split() == ["age", "reason", "record", "bytes", "replayed", "detail"]
    assert f"{post.queries}/1/7"[:31] in table.out
    assert SECRET not in table.out + json.dumps(first)
    assert SECRET in post.dlq("list", "--show-payload").out
    [shown] = post.listed("--show-payload", "--reason", "not_json")
    assert base64.b64decode(shown["payload_base64"]) == SECRET.encode()


def test_selection(post: Post) -> None:
    """Letters are selected by reason, original topic, time, and count of the newest."""
    now = round(time.time() * 1000)
    for number in range(5):
        post.add(
            "not_json" if number % 2 else "missing_field", number, timestamp=now - 86_400_000 * (5 - number)
        )
    post.add("not_json", 9, topic="another", timestamp=now)

    def offsets(*arguments: str) -> list[int]:
        return [letter["source"]["offset"] for letter in post.listed(*arguments)]

    assert offsets() == [0, 1, 2, 3, 4, 9]
    assert offsets("--reason", "not_json") == [1, 3, 9]
    assert offsets("--reason", "not_json", "--reason", "missing_field", "--topic", post.queries) == list(
        range(5)
    )
    assert offsets("--limit", "2") == [4, 9]
    after = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now / 1000 - 2.5 * 86_400))
    assert offsets("--from", after) == [3, 4, 9]
    assert offsets("--to", after) == [0, 1, 2]


def test_replay_each_once(post: Post) -> None:
    """A record is replayed unchanged, with key and headers, once; again only with the option."""
    expiry = {"ce_expirytime": "2020-01-01T00:00:00Z", "lane": "canary"}
    post.add("unknown_lane", 7, value=b'{"query_id":"a"}', headers=expiry)
    dry = post.dlq("replay", "--dry-run")
    assert (dry.code, post.replayed()) == (0, [])
    assert dry.out == f"{post.queries}/1/7 unknown_lane: would be replayed\n"
    ran = post.dlq("replay")
    assert (ran.code, ran.out) == (0, f"{post.queries}/1/7 unknown_lane: replayed\n")
    assert (
        ran.err == "fivestage: 1 replayed, 0 replayed before, 0 without its bytes, 0 refused by the broker\n"
    )
    [record] = post.replayed()
    assert (record.key(), record.value()) == (b"k", b'{"query_id":"a"}')
    [letter] = post.listed()
    place = letter["letter"]
    assert headers_of(record) == {
        "lane": "canary",
        "dlq.replayed-from": f"{post.letters}/{place['partition']}/{place['offset']}",
    }
    assert letter["replayed"]
    second = post.dlq("replay")
    assert (second.code, second.out) == (0, f"{post.queries}/1/7 unknown_lane: replayed before\n")
    assert len(post.replayed()) == 1
    third = post.dlq("replay", "--again")
    assert (third.code, len(post.replayed())) == (0, 2)


def test_replay_of_some(post: Post) -> None:
    """Replays are limited by count, reason and topic; the rest can follow."""
    for number in range(6):
        post.add("not_json" if number < 5 else "missing_field", number)
    post.add("not_json", 9, topic="another")
    first = post.dlq("replay", "--reason", "not_json", "--limit", "2")
    assert (first.code, first.out.count(": replayed\n")) == (0, 2)
    rest = post.dlq("replay", "--reason", "not_json")
    assert (
        rest.err == "fivestage: 3 replayed, 2 replayed before, 0 without its bytes, 0 refused by the broker\n"
    )
    assert len(post.replayed()) == 5


def test_replay_of_letters_without_bytes(post: Post) -> None:
    """Letters without bytes are reported, with exit code 1; the others are replayed."""
    post.add("corrupt_record", 1, value=None)
    post.add("too_large", 2, value=None, headers={"dlq.truncated": "true"})
    post.add("not_json", 3)
    ran = post.dlq("replay")
    assert (ran.code, len(post.replayed())) == (1, 1)
    assert (
        ran.err == "fivestage: 1 replayed, 0 replayed before, 2 without its bytes, 0 refused by the broker\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("list", "--reason", "nonsense"), "there is no 'nonsense', but bad_cloudevent, corrupt_record"),
        (("replay", "--from", "yesterday"), "--from: needs a date"),
        (("replay", "--topic", "no.such"), "topic 'no.such' does not exist"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_wrong_use(post: Post, arguments: tuple[str, ...], text: str) -> None:
    """Wrong use prints one line with the remedy, with exit code 2."""
    ran = post.dlq(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert len(ran.err.splitlines()) == 1
