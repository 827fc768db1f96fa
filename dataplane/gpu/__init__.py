"""What runs on a GPU, or on the CPU with the same code: batches decoded there, pipelines of DALI.

The only package that imports DALI, nvCOMP or Triton, and it does so when they are first needed: a
machine without them, or without a GPU, imports all of it. What needs a loader is in
`dataplane.loader` and calls down into this package. README.md is the map.
"""
