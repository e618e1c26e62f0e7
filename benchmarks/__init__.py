"""Benchmarks: how fast streams write, beside loops that hand the same libraries whole shards.

Run ``python -m benchmarks``; see ``python -m benchmarks --help``.
"""
