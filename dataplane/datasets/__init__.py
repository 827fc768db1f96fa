"""Datasets, selections, the global order, plans and collation."""
