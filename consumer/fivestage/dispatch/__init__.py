"""The way of a record on the bus loop, from the poll to the acknowledgement of its events.

- ``poller`` polls the source as far as ``back_pressure`` allows, which lists all valves in one table
- ``dispatcher`` owns each record in flight (``in_flight``): it queues, starts or rejects the query
- ``screening`` reads records and sheds load; ``key_lines`` and ``queue_deadlines`` hold what waits
- ``active_jobs`` owns the queries that run; ``watchdog`` looks for overdue and blocked ones
- ``rejections`` defers the events of rejected queries; ``events`` writes all events, ``publisher`` hands them
  to the sink and finishes the record, ``progress`` counts the records in flight
- ``build`` makes all of them

Called by ``service`` and ``testing``. The dispatcher owns the parts below it and gives each its callback when
it makes it. Invariant: nothing here waits for user code.
"""
