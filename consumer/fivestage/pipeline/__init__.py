"""The API of authors, and how a query runs through its five stages.

Authors use ``pipeline``, to which ``node_declarations`` and ``resource_declarations`` belong, ``node``,
``batch``, ``resource``, and ``context`` (``outbound`` is for their clients). ``resource_manager`` opens and
closes resources, ``matriz`` adapts foreign node objects, ``loader`` imports an app. ``settings`` is the
section ``nodes`` of the settings; ``node_settings`` checks it (``setting_errors``) for nodes and resources.

A query runs in ``orchestrator``: ``stage_runner`` takes the stages in order and fails over between nodes
(``node_choice``), ``stage_attempt`` calls one stage's function (``stage_call``) within its limit
(``bounds``, ``bounded_call``, ``call_limits``) and reads what it returned (``stage_results``). Blocking
functions run in ``thread_pool``, or wait for one of its threads (``waiting_calls``). Queries for a batch
node wait in ``batch_runner``, which calls the node for many, in a thread as ``batch_call``.
``node_calls`` follows the rules of nodes, and ``hedged_call`` calls a second node beside a slow one.
Called by ``executors``, and directly by users.

Invariant: nothing here uses Kafka, the bus loop or another query's state; no query waits for a stage beyond
the stage's limit; code that does not end is abandoned.
"""
