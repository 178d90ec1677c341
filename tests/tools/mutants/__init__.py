"""Planted mistakes: each is put into a copy of the product, and the named tests must fail there."""
