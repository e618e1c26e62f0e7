"""Benchmarks: how fast streams write.

- ``python -m benchmarks``: beside other writers, and what the machine can do at most.
- ``python -m benchmarks.loops``: beside loops that hand the same libraries whole shards.
- ``python -m benchmarks.parts``: the processor time of a stream, beside that of the work nobody can leave out.
- ``python -m benchmarks.replay``: what replaying a recording takes, beside reading and writing it.

Each has a ``--help``.
"""
