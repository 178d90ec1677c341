"""Fuzz tests of the parsers of foreign bytes: ``cd tests; python -m unit.fuzz --help``."""
