"""The ``math`` node: exact arithmetic on what people write."""
