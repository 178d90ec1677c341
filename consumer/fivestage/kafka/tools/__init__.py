"""Clients of the commands: producing queries, following results, reading dead letters."""
