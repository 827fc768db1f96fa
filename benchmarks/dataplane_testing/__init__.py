"""Servers, stores and suites for tests, demos and benchmarks."""
