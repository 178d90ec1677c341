"""Decodes Kafka records into queries, and encodes outcomes as Kafka records.

``decode`` reads the records of producers; ``encode`` writes the events of the contract and dead letters,
with ``event_json`` (the events as JSON) and ``record_format`` (Kafka's record format). ``data_json``
encodes the data of stages, with ``jsonable`` for other objects. ``dead_letter`` reads dead letters for a
replay, ``refused_event`` replaces events that the broker rejects.

Invariant: decoding never raises, whatever the record contains.
"""
