"""How the service starts, lives and ends: settings to parts, parts to a running whole.

``service`` is the entry, ``assembly`` makes the parts, ``health`` decides liveness and readiness,
``shutdown`` bounds the end. Called by ``cli.run``.
"""
