"""The PyTorch DataLoader over the cache and the native decoder."""
