"""Pure and synchronous: values in, values out, ``now`` is a parameter. No I/O, no clock, no threads."""
