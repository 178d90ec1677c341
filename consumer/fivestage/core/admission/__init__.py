"""Decides which query may start, and when.

``slots`` holds the running and the waiting queries, ``lanes`` chooses the next one, ``concurrency_limit``
(with ``limit_evidence``, ``limit_trial``, ``limit_report`` and ``latency``) sets how many may run.
``load_shedding`` rejects queries that would be answered too late, ``key_order`` runs equal keys in order,
``poison_pills`` detects queries that stall the process, ``thread_queues`` tracks queries that wait for a
thread, ``gate`` bounds the records in flight.

Called by ``dispatch`` on the bus loop. Each decision takes ``now`` and returns at once.
"""
