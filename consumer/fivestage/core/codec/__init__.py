"""Kafka records to queries, and outcomes to Kafka records.

``decode`` reads what producers write, ``encode`` writes the events of the contract; ``event_json`` and
``jsonable`` make their JSON, ``record_format`` their bytes. ``dead_letter`` reads dead letters back.
Invariant: no input raises anything but ``decode``'s own errors.
"""
