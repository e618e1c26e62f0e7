"""Descriptions of acquisitions that other packages make, as settings of a stream.

Nothing is imported here: each module imports the package that it is for when one of its functions is called.
"""
