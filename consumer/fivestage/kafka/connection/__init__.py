"""How clients connect, why a connection fails, and when clients are rebuilt."""
