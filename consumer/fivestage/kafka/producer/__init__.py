"""Publishes events.

- ``sink`` is the entry: it queues records by partition (``partition_queue``) and reports when they are
  acknowledged.
- ``sender`` sends the queues in one request per broker (``record_batch``, ``produce_request``) and reads the
  answers (``produce_response``); ``rejected_batch`` handles batches that no retry can publish.
- ``producer`` holds the current ``client`` and replaces a broken one.

Invariant: a record stays in its queue until the brokers have acknowledged it, or it is no longer wanted.
"""
