"""What the status page, ``/api/status`` and ``fivestage top`` show.

``model`` is the shape of the document. Built on the bus loop from an observer's rolling figures and from the
parts of the service; read as JSON by the page and the commands.

Invariant: no query text, no answer and no header value, unless ``admin.show_text``.
"""
