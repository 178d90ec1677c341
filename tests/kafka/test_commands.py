"""The commands about topics on a real broker."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from support.preloaded import run

from .broker import TopicSet

if TYPE_CHECKING:
    import subprocess

    from .broker import RealBroker


def fivestage(kafka: RealBroker, prefix: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against this broker, with topics of this prefix."""
    topics = TopicSet(prefix, 8)
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    environment = {f"FIVESTAGE_TOPICS__{name.upper()}": getattr(topics, name) for name in names}
    environment["FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS"] = kafka.bootstrap
    return run(
        [sys.executable, "-m", "fivestage", *arguments],
        env={**os.environ, **environment},
        timeout=60,
    )


def test_create_then_check(kafka: RealBroker) -> None:
    """Check reports what is missing, create makes it as requested, then nothing is left to do."""
    missing = fivestage(kafka, "made", "topics", "check")
    assert missing.returncode == 1
    assert missing.stdout.count("does not exist") == 5
    create = ("topics", "create", "--partitions", "8")  # the brokers' default replication
    made = fivestage(kafka, "made", *create)
    assert (made.returncode, made.stdout.count("created made.")) == (0, 5), made.stderr
    checked = fivestage(kafka, "made", "topics", "check")
    assert (checked.returncode, checked.stdout.count("8 partitions")) == (0, 5), checked.stdout
    again = fivestage(kafka, "made", *create)
    assert (again.returncode, again.stdout) == (0, "nothing to do: all topics are there\n")


def test_create_that_the_cluster_rejects(kafka: RealBroker) -> None:
    """More replicas than brokers: exit code 2 and one line."""
    refused = fivestage(kafka, "copies", "topics", "create", "--replication-factor", "3")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "fivestage: cannot create topic 'copies.queries': InvalidReplicationFactor"
    )
    assert len(refused.stderr.splitlines()) == 1
