"""HTTP of our own, beside the client libraries."""
