"""Kafka: where records come from and where events go. The only package that imports a Kafka client.

- ``consumer``: reads records as a member of the group, commits offsets. Entry: ``GroupMember``.
- ``producer``: publishes events until they are acknowledged. Entry: ``Sink``.
- ``connection``: how clients connect, why they cannot, and when they are replaced.
- ``settings``: the connection to Kafka, and the names of the topics.
- ``topic_info``, ``topics``, ``durability``: describes topics, checks and creates them, warns of those that
  may lose records.
- ``aiokafka_internals``: all uses of private names of aiokafka; ``aiokafka_check`` checks that they exist.
- ``embedded_broker``, ``embedded_group``: a development broker in its own process, and the consumer for it.
- ``tools``: the clients of the commands.

Health has one vocabulary: ``fault`` is why a client must be, or is being, replaced; ``unready`` is why it
cannot work now, which may pass; ``halted`` names halted partitions; ``Diagnosis.cause`` is why Kafka is
unreachable. Each is None while there is nothing to report.

Called by ``service`` and ``cli``. Invariant: no exception of a client library leaves this package.
"""
