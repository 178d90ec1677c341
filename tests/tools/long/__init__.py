"""What takes too long for every change: all of it in one night, with a report that names the commit."""
