"""Maintenance of a cache directory beside reading: checks, clean-up, statistics."""
