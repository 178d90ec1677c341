"""User code in worker processes.

In the service: ``executor`` is the entry; ``worker`` is one process as the worker pool sees it,
``job_histories`` what its jobs have done so far, ``connection`` the socket and the memory shared with it,
which also notices its death, and ``send_queue`` writes into the socket; ``spawner``, ``fork_requests`` and
``fork_client`` start processes; ``overtime`` selects processes to replace, ``backoff`` counts failures. In
the other processes: ``fork_server`` imports the app once and forks; ``child`` is the main program of a
worker, ``lifetime`` says what ends it, ``reporter`` and ``loop_probe`` report from it, ``offer_sender`` what
its nodes offer. Both sides use ``ring``, and ``frames``, ``messages``, ``stage_values`` and
``routing_messages``, which are pure.

Invariant: whatever a worker process does, the bus loop neither raises nor waits for the process.
"""
