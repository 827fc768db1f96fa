"""Entries that this process has open, and their encryption."""
