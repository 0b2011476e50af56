"""Several processes as one: the ranks of a process group, and what is added up over them.

`ranks.py` is a process group as far as an engine needs it; `sums.py` is the one place where tensors
are added up over ranks, and counted.

Imports the ground. Start reading at `ranks.py`.
"""
