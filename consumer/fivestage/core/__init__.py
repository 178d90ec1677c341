"""The decisions of the service: pure and synchronous; values in, values out; ``now`` is a parameter.

Called by every other package; calls none of them. No I/O, no clock, no threads, no Kafka client, no logging.

- ``plan``, ``deadline``, ``job``, ``stage_run``, ``stage_history``, ``attempts``, ``outcome``: a query in
  flight and how it ends.
- ``records``, ``ledger``, ``partition_halt``: Kafka records, commit positions, halted partitions.
- ``routing_snapshot``: limits, breakers and node health, for the stage runner.
- ``hedge``, ``extra_load``: when a second node is called beside a slow one, and how often at most.
- ``blocked_queries``: when a query behind blocking code moves to another event loop.
- ``rejection_cause``, ``reachability``, ``exception_origin``, ``observer``: small shared values and
  interfaces.
- ``time_slice``: bounds how long one task keeps an event loop busy. ``backoff``: pauses between attempts.
- ``settings``: the settings sections of all these, and the base class of every section.
- ``admission``: which query may start, and when. ``adaptive``: what is learned from how queries end.
- ``codec``: records to queries, outcomes to records.
"""
