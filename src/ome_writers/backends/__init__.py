"""The libraries that write, one module each; none is imported before it is asked for."""

from ._registry import available_backends, load_backend

__all__ = ["available_backends", "load_backend"]
