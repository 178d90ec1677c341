"""Where user code runs: in line, in a thread of its own."""

from fivestage.executors.inline import InlineExecutor
from fivestage.executors.port import Executor, OnFinished
from fivestage.executors.thread import ThreadExecutor

__all__ = ["Executor", "InlineExecutor", "OnFinished", "ThreadExecutor"]
