"""The ``facts`` node: answers questions about countries, and from tables that users add."""
