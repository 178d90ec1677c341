"""User code in worker processes.

In the service: ``executor`` is the entry; ``worker`` is one process as the worker pool sees it, and
``connection`` the socket to it, which also notices its death; ``spawner``, ``fork_requests`` and
``fork_client`` start processes; ``overtime`` and ``backoff`` help them to decide. In the processes:
``fork_server`` imports the app once and forks; ``child`` is the main program of a worker, ``reporter`` and
``loop_probe`` report from it. Both sides use ``frames`` and ``messages``, which are pure.

Invariant: whatever a process does, the bus neither raises nor waits for it.
"""
