"""What the status page, ``/api/status`` and ``fivestage top`` show.

``model`` is the shape of the document. ``recorder``, an observer beside the metrics, counts in ``figures``
(by ``durations``), and keeps the last slow and failed queries (``recent``) and the ``lag``. ``summary``
computes rates and series from the counts, ``readings`` asks the parts of the service; ``document`` puts both
together when it is read, in slices of the bus loop. ``feed`` streams what changes, ``routes`` serves it.

Invariant: no query text, no answer and no header value, unless ``admin.show_text``.
"""
