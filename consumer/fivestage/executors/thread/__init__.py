"""User code on event loops in threads of this process.

``executor`` is the entry; ``worker`` is one loop in one thread, as the worker pool sees it.

Invariant: a thread cannot be stopped, so code that does not end is left behind and counted.
"""
