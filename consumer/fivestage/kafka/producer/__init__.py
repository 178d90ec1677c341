"""Publishes events. ``sink`` is the entry: it queues by partition, ``sender`` sends one request a broker.

Invariant: an event leaves its queue when the brokers have acknowledged it, and not before.
"""
