"""Several ranks that share a batch.

Imports the ground. Start reading at `split.py`.
"""

from .slices import EmptySlice
from .split import split

__all__ = ["EmptySlice", "split"]
