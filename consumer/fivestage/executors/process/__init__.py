"""User code in worker processes.

In the service: ``executor`` is the entry, ``worker`` one process as the worker pool sees it, ``connection``
the socket to it; ``spawner``, ``supply`` and ``fork_client`` get processes. In the processes: ``fork_server``
imports the app once and forks; ``child`` is a worker, ``reporter`` and ``loop_probe`` report from it.
Shared and pure: ``frames`` and ``messages``.
"""
