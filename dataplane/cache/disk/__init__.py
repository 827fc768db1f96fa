"""The cache directory: its files, locks and identities."""
