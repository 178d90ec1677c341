"""Fuzzing what reads foreign bytes: ``cd tests; python -m fuzz --help``."""
