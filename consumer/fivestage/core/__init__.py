"""What is decided: pure and synchronous, values in and values out, ``now`` is a parameter.

Called by every other package; calls none of them. No I/O, no clock, no threads, no Kafka client, no logging.

- ``plan``, ``deadline``, ``job``, ``stage_history``, ``attempts``, ``outcome``: a query and how it ends.
- ``records``, ``ledger``, ``partition_halt``: Kafka records as values, and how far may be committed.
- ``routing_snapshot``: limits, breakers and health, as the stage runner sees them.
- ``rejection_cause``, ``blocked_queries``, ``reachability``, ``exception_origin``, ``observer``: see there.
- ``settings``: the settings sections of all these, and the base class of every section.
- ``admission``: which query may start. ``adaptive``: what is learned from how queries end.
- ``codec``: bytes to queries, outcomes to bytes.
"""
