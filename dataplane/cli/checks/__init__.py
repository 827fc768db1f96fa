"""What `dataplane doctor` looks at: small functions that are handed the world they look at."""
