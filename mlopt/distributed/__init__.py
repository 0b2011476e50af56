"""Several processes as one: their shares of a batch, and what is added up over them.

`split` gives a rank its samples of every batch. `ranks.py` is a process group as far as an engine
needs it; `sums.py` is the one place where tensors are added up over ranks. `sync_batch_norm` lets
BatchNorm take the samples of all ranks, by sums in the middle of an evaluation (`shared_sums.py`).
`shards.py` has tensors of which each rank has some rows, `spread.py` the numbers made of all rows.

Imports the ground. Start reading at `ranks.py`.
"""

from .slices import EmptySlice
from .split import split
from .sync_batch_norm import sync_batch_norm

__all__ = ["EmptySlice", "split", "sync_batch_norm"]
