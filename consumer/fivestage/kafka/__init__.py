"""Kafka: where records come from and go to. The only package that imports a Kafka client.

- ``consumer``: the source of records, group membership, commits.
- ``producer``: batches events and publishes them, each until it is acknowledged.
- ``connection``: how clients connect, why they cannot, and when they are rebuilt.
- ``settings``: the connection to Kafka, and the names of the topics.
- ``topics``, ``durability``: checks and creation of topics.
- ``aiokafka_internals``: every private name of aiokafka that is used.
- ``embedded_broker``, ``embedded_group``: a development broker in a process of its own.
- ``tools``: clients of the commands.

Called by ``service`` and ``cli``. Invariant: no exception of a client library leaves this package.
"""
