"""Where user code runs: on the bus loop, on event loops in threads, or in worker processes.

``executor`` is the port that ``dispatch`` uses; ``worker_pool`` places jobs on workers and replaces
workers that do not turn, ``job_registry`` records what runs where, ``task_host`` runs
jobs as tasks of one loop.

Invariant: no exception is thrown into a thread, and no job keeps the bus loop waiting.
"""

from fivestage.executors.executor import TICK_S, Executor, OnFinished
from fivestage.executors.inline import InlineExecutor
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.executors.thread.executor import ThreadExecutor

__all__ = ["TICK_S", "Executor", "InlineExecutor", "OnFinished", "ProcessExecutor", "ThreadExecutor"]
