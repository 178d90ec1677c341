"""Invalid responses: unknown error codes, and bytes that are no response."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from embedded.faults.test_rebuild import TOPICS, all_answered, rebuilds
from support.feeder import event, write
from support.mock import FETCH, HEARTBEAT, JOIN_GROUP, OFFSET_COMMIT, PRODUCE, SESSION, Mock
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.broker
MOST_LINES = 60


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "codes",
    [
        (-1, 82, 119),
        pytest.param((82, 119, -1), marks=pytest.mark.long),
        pytest.param((119, -1, 82), marks=pytest.mark.long),
    ],
)
def test_unknown_error_codes(
    codes: tuple[int, int, int], record_property: Callable[[str, object], None]
) -> None:
    """Unknown codes to each kind of request under load are repaired, with no loss and few log lines."""
    ids = [f"q{number}" for number in range(1500)]
    with Mock() as mock:
        write(mock.bootstrap, TOPICS.queries, [(name, event(name, "fast")) for name in ids])
        mock.push(PRODUCE, [0] * 10 + [codes[0]])
        mock.push(OFFSET_COMMIT, [codes[1]])
        mock.push(HEARTBEAT, [0] * 8 + [codes[2]])
        mock.push(FETCH, [0, 0, *codes])
        with ServiceProcess("support.apps:load", mock.bootstrap, SESSION) as service:
            pause = threading.Event()
            while mock.requests(HEARTBEAT) < 9:  # its code comes last
                pause.wait(0.1)
            report = all_answered(mock, ids)
            found = rebuilds(service)
            assert service.end() == 0
    assert report.silent, report
    assert {labels.split('"')[1] for labels in found} == {"consumer", "producer"}
    assert 2 <= sum(found.values()) <= 3  # one new consumer may mend two codes that come together
    assert len(service.log) < MOST_LINES, service.log
    record_property("rebuilds", int(sum(found.values())))
    record_property("log lines", len(service.log))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (23, "group 'fivestage' has members that share partitions in another way"),
        (24, "the brokers do not accept kafka.group_id = 'fivestage'"),
        (26, "the brokers do not accept kafka.session_timeout_ms = "),
    ],
)
def test_a_group_that_does_not_take_the_member(code: int, said: str) -> None:
    """Settings that the group rejects end the service with exit code 2, and the line names them."""
    with Mock() as mock:
        mock.push(JOIN_GROUP, [code] * 100)
        service = ServiceProcess("support.apps:load", mock.bootstrap)
        service.launch()
        assert service.wait(60) == 2
    assert said in service.log[-1]["error"]


@pytest.mark.fault(39)
def test_fetches_that_are_always_refused(record_property: Callable[[str, object], None]) -> None:
    """Fetches that always get an unknown code are logged a few times."""
    with Mock() as mock, ServiceProcess("support.apps:load", mock.bootstrap) as service:
        mock.push(FETCH, [-1] * 2000)
        before, pause = mock.requests(FETCH), threading.Event()
        while (fetches := mock.requests(FETCH) - before) < 15:
            pause.wait(0.1)
        mock.clear(FETCH)
        write(mock.bootstrap, TOPICS.queries, [("q", event("q", "fast"))])
        assert all_answered(mock, ["q"]).silent
        assert service.end() == 0
    said = [line for line in service.log if "Unexpected error while fetching" in str(line["event"])]
    assert 1 <= len(said) <= 6
    record_property("lines about refused fetches", f"{len(said)} for {fetches}")


@pytest.mark.fault(39)
def test_garbage_on_the_wire(record_property: Callable[[str, object], None]) -> None:
    """Invalid bytes cost a connection, not the service: it continues, with few log lines."""
    ids = [f"q{number}" for number in range(1000)]
    with Mock() as mock:
        write(mock.bootstrap, TOPICS.queries, [(name, event(name)) for name in ids])
        with ServiceProcess("support.apps:load", mock.bootstrap, SESSION) as service:
            mock.spoil(20)  # until that is done, only this test talks to the broker
            pause = threading.Event()
            while mock.spoiled():
                pause.wait(0.1)
            report = all_answered(mock, ids)
            assert service.end() == 0
    assert report.silent, report
    assert len(service.log) < MOST_LINES, service.log
    record_property("log lines", len(service.log))
