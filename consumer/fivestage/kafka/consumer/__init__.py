"""Reads records, commits offsets. ``group_member`` is the entry: a ``source`` that is rebuilt when needed.

Invariant: no record is skipped, and none is delivered twice within an assignment.
"""
