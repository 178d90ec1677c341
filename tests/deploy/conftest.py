"""The fixtures with a real Kafka broker, as in ``tests/kafka``."""

from __future__ import annotations

from kafka.conftest import kafka, make_topics, topics

__all__ = ["kafka", "make_topics", "topics"]
