"""The ``facts`` node: answers questions about countries, and about tables that users add."""
