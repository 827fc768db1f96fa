"""What is done with a cache directory beside reading: checks, clean-up, statistics."""
