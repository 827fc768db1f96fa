"""Throughput benchmarks: cases, rivals and reports."""
