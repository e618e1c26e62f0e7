"""Long campaigns of faults; the test suite runs a sample of each."""
