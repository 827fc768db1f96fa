"""The contenders that are not ours, each at its best setting, imported only where it runs."""
