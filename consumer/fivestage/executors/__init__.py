"""Where user code runs: on event loops in threads, or in worker processes.

``executor`` is the interface that ``dispatch`` uses. ``thread`` and ``process`` implement it on
``worker_pool``, which distributes jobs to workers and moves jobs away from blocked ones: ``worker`` is the
interface of a worker, ``worker_set`` decides which workers there are, ``stall_detector``, ``stall_log`` and
``code_location`` are about blocked loops, ``worker_death`` ends the jobs that a dead worker takes with it,
``job_registry`` records what runs where. ``task_host`` runs jobs as tasks of one loop, ``mailbox`` connects
two loops, ``abandoned_cpu`` and ``interpreter`` limit what abandoned code costs. ``reloadable`` replaces the
app of a running executor, for development; ``inline`` runs jobs on the bus loop, for tests.

Invariant: no exception is thrown into a thread, and no job keeps the bus loop waiting.
"""

from fivestage.executors.executor import TICK_S, Executor, OnFinished
from fivestage.executors.inline import InlineExecutor
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.executors.thread.executor import ThreadExecutor

__all__ = ["TICK_S", "Executor", "InlineExecutor", "OnFinished", "ProcessExecutor", "ThreadExecutor"]
