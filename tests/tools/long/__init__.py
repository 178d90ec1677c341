"""Checks too long for every change: all of them in one night, with a report that names the commit."""
