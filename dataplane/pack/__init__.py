"""Converters from simulation files to packed datasets."""
