"""The path of a record on the bus loop, from the poll to the acknowledgement of its events.

- ``poller`` polls the source as far as ``back_pressure`` allows, which lists all valves in one table
- ``dispatcher`` owns each record in flight (``in_flight``): it queues, starts or rejects the query
- ``screening`` reads records and sheds load; ``key_lines`` queues records behind their keys;
  ``queue_deadlines`` watches the deadlines of queries that wait
- ``active_jobs`` owns the queries that run, ``enqueued_jobs`` those that wait in the executor for a slot;
  ``watchdog`` finds overdue and blocked ones, ``learner`` learns from their outcomes
- ``drains`` leaves partitions to their next readers
- ``rejections`` defers the events of rejected queries; ``events`` writes all events, ``publisher`` hands them
  to the sink and finishes the record, ``progress`` counts the records in flight
- ``build`` makes the poller, the dispatcher and their parts

Called by ``service`` and ``testing``. The dispatcher makes the parts that call back, and passes its
methods to them. Invariant: nothing here waits for user code.
"""
