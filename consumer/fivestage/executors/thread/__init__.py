"""User code on event loops in threads of this process."""
