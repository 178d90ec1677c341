"""The ``facts`` node: answers questions about countries, and from tables that users add.

``node`` answers, ``loader`` reads the tables, ``phrases`` and ``search`` find what a question names.
"""

from fivestage.nodes.facts.node import Facts

__all__ = ["Facts"]
