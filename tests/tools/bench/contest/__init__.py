"""fivestage beside others: the same work, written the way each of them is meant to be used."""
