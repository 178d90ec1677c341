"""The fixtures with a real Kafka broker, as in ``tests/kafka``."""

from __future__ import annotations

from kafka.conftest import kafka, make_topics, own_kafka, topics

__all__ = ["kafka", "make_topics", "own_kafka", "topics"]
