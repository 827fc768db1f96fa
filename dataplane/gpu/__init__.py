"""The GPU route: pinned transfer, inflation of staged streams on the device, and their placement.

The only package that imports DALI, nvCOMP or Triton, and it does so when they are first needed: a
machine without them, or without a GPU, imports all of it. What needs a loader is in
`dataplane.loader` and calls down into this package. README.md is the map.
"""
