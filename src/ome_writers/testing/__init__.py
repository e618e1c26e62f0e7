"""For tests of backends and of programs that write with this package; never imported at run time.

``conformance`` holds a suite per contract, ``datasets`` makes and reads the datasets for it, ``strategies`` draws
acquisitions, ``faults`` has sinks that are slow or fail when told to, ``files`` a file system that fails.
"""
