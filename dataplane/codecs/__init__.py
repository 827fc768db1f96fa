"""The typed face of the native decoder, and its NumPy reference."""
