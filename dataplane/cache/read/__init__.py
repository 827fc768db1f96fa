"""Reads: scatter lists, zero-copy views and the prefetch buffer."""
