"""The status page: one HTML file, one stylesheet, one script, and uPlot for the charts.

``document`` renders the page, and each of its blocks, from the status document: ``overview`` (state, problems
and figures), ``series``, ``stages``, ``nodes``, ``load``, ``recent``. ``attention`` says what needs a hand.
``elements`` builds HTML in which all text is escaped, ``ruler`` draws durations, ``numbers`` writes figures
with their units. ``assets`` has the files.

The server renders everything. The script replaces what changed, and draws the charts; so the page is complete
without it.
"""
