"""What JSON has no form for, in the form that it has."""

from __future__ import annotations

import numpy as np


def plain(value: object) -> object:
    """Return a NumPy scalar or array as numbers or lists, for ``json.dumps(default=plain)``.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")
