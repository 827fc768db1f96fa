"""The comparisons: one module per case, each with a `run` that returns rows."""
