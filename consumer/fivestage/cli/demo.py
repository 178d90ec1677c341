"""``fivestage demo``."""

def demo() -> None:
    """Show everything on this machine."""
