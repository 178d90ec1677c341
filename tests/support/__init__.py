"""Shared by tests of the whole service: the service as a process, a feeder, and the checker."""
