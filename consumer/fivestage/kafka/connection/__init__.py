"""How clients connect, why a connection fails, and when and how a client is replaced.

- ``connection``: options and certificates; ``oauth``: tokens.
- ``preflight``: connects step by step, and names the cause of a failure. Used before a client is made.
- ``diagnosis``: repeats the preflight while the service is cut off. ``clients``: the two running clients.
- ``rebuild``: replaces a client; ``rebuild_policy``, which is pure: when, how often, after which pauses.
- ``metadata_request``: a request that aiokafka lacks.
"""
