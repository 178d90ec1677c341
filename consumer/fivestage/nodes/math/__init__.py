"""The ``math`` node: exact arithmetic on sums as people write them."""
