"""Downloads: which blocks are fetched, in which order, by which thread."""
