"""How the service starts, runs and ends.

``entry``, called by ``cli.run``, runs a ``service`` in this process. ``assembly`` makes the parts from the
settings, ``health`` decides liveness and readiness, ``drain`` finishes records in flight before partitions
are left, ``shutdown`` begins the end and bounds it. ``reload`` replaces the app when its
``watched_files`` change, while it is being developed.
"""
