"""Packed datasets: tar, zip, Zarr metadata, the Parquet index, readers and writers."""
