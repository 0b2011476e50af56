"""Several processes as one: their shares of a batch, and what is added up over them.

`split` gives a rank its samples of every batch. `ranks.py` is a process group as far as an engine
needs it; `sums.py` is the one place where tensors are added up over ranks.

Imports the ground. Start reading at `ranks.py`.
"""

from .slices import EmptySlice
from .split import split

__all__ = ["EmptySlice", "split"]
