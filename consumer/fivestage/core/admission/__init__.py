"""Which query may start, and when.

Slots, lanes, the concurrency limit, load shedding, key order and poison pills are a module each.

Called by ``dispatch`` on the bus loop. Each decision takes ``now`` and returns at once.
"""
