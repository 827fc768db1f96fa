"""Eviction: the budget of a cache directory, and which blocks go when it is full."""
