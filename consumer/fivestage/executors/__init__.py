"""Where user code runs: in line, in a thread of its own, in processes."""

from fivestage.executors.inline import InlineExecutor
from fivestage.executors.port import TICK_S, Executor, OnFinished
from fivestage.executors.process import ProcessExecutor
from fivestage.executors.thread import ThreadExecutor

__all__ = ["TICK_S", "Executor", "InlineExecutor", "OnFinished", "ProcessExecutor", "ThreadExecutor"]
