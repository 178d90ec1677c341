"""What is learned from how queries end: stage limits, breakers, node health, and the state of each lane.

``lane_state`` is the entry: ``dispatch`` reports every ended query to it and takes routing snapshots from it.
Nothing learned may cost an answer that would have been in time without it.
"""
