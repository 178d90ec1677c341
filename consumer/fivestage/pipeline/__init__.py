"""What authors write, and how a query runs through its five stages.

``pipeline``, ``node``, ``context`` and ``resource`` are the API of authors; ``loader`` finds their app.
``orchestrator`` takes a query through the stages (``stage_runner``), each call bounded (``bounded_call``) and
blocking functions in threads (``thread_pool``). Called by ``executors``, and directly by users.

Invariant: nothing here knows Kafka, the bus loop or other queries; a stage never outlives its limit.
"""
