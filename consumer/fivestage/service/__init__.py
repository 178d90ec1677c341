"""How the service starts, runs and ends.

``entry`` runs a ``service`` in this process, called by ``cli.run``. ``assembly`` makes the parts from the
settings, ``health`` decides liveness and readiness, ``drain`` finishes what is in flight before partitions
are left, ``shutdown`` bounds the end.
"""
