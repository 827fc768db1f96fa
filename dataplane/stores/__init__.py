"""Object stores behind one contract: ranged reads, listings, writes."""
