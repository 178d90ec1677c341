"""Reads records and commits offsets.

- ``group_member`` is the entry: it fetches from a ``source``, and replaces one whose consumer breaks.
- ``source``: one aiokafka consumer in a group, and the list of corrections to aiokafka.
- ``client``: the options of that consumer, and the corrections made when it starts.
- ``batch_check``, ``fetch_recovery``, ``offset_reset``: unreadable batches and records, lost positions.
- ``pauses``: back-pressure and halted partitions. ``progress``: detects stalled partitions.
- ``committer``: commits finished offsets.

Invariant: only an offset reset skips records, and none is handed over twice within an assignment unless it
was handed back.
"""
