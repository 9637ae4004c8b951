"""Arrays of the engines: of plain integers, and growing."""

from __future__ import annotations

from typing import Any

import numpy as np


def view(array: Any) -> Any:
    """Make an array's items plain integers where the engine runs interpreted."""
    return memoryview(array)


def ints(count: int, fill: int = 0, dtype: Any = np.int32) -> Any:
    """Return a column of one number."""
    return view(np.full(count, fill, dtype))


def grown(old: Any, fill: int = 0) -> Any:
    """Return a column twice as long, the old part kept."""
    array = np.asarray(old)
    return view(np.concatenate([array, np.full(max(len(array), 1), fill, array.dtype)]))
