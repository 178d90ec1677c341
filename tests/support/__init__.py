"""What tests of the whole service share: the service as a process, a feeder, and the checker."""
