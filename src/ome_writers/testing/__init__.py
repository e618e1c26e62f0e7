"""Conformance suites and strategies for tests of backends; never imported at run time."""
