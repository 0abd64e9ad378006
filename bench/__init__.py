"""Benchmarks, and what they measure against."""
