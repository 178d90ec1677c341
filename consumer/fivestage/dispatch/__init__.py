"""The way of a record on the bus loop: from the poll to the commit.

``poller`` takes records from the source, ``dispatcher`` decodes, admits and starts them, ``active_jobs`` ends
each when its executor is done or its time is up, ``rejections`` publishes what was not started, ``watchdog``
looks for overdue and blocked queries. ``build`` puts them together.

Called by ``service`` and ``testing``. Invariant: nothing here waits for user code.
"""
