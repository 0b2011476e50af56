"""What is left of a process group when it is destroyed, has failed, or ends with its process.

As a program, a rank that ends at once after its last collectives: with status 3 if threads of gloo
still hold what was given to them.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any

given: list[weakref.ref[Any]] = []


def last() -> None:
    if any(tensor() is not None for tensor in given):
        os._exit(3)


if __name__ == "__main__":
    atexit.register(last)  # before torch is imported, so that it is called after all others

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from distributed.agreements import fit, said  # noqa: E402
from distributed.here import here, join_group, seeded  # noqa: E402
from distributed.laws import slice_of  # noqa: E402
from small import batches  # noqa: E402
from torch import nn  # noqa: E402

from mlopt.distributed.ranks import Ranks  # noqa: E402


def destroyed() -> tuple[bool, str]:
    """Whether a group is there that was destroyed under a living engine; what the engine says."""
    group = dist.new_group()
    engine = fit(seeded(1, lambda: nn.Linear(3, 1)), slice_of(batches(1)), ranks=group)
    engine.step()
    alive = weakref.ref(group)
    dist.destroy_process_group(group)
    del group
    return alive() is not None, said(engine.step)


def failed() -> bool:
    """Whether collectives are there that a failed rank has begun and others will not join.

    Their group is destroyed, for which it must not wait for them.
    """
    group = dist.new_group()
    ranks = Ranks(group)
    if ranks.rank == 0:
        works = [weakref.ref(ranks.add_up(torch.ones(3, device=here())).work) for _ in range(2)]
        ranks.tell(ValueError("this rank has failed"))
        del ranks
        dist.destroy_process_group(group)
        return all(work() is not None for work in works)
    while not said(ranks.listen):
        pass
    return True


def dropped() -> int:
    """How many collectives are held that are done, and that nobody has waited for."""
    ranks = Ranks(dist.new_group())
    ranks.add_up(torch.ones(3)).work.wait()
    ranks.wait(ranks.add_up(torch.ones(3)))
    return len(ranks._under_way)


def failed_alike() -> list[int]:
    """The ranks that a failed one would wait for, where each has failed by itself."""
    ranks = Ranks(dist.new_group())
    ranks.tell(ValueError("all ranks refuse this"))
    dist.barrier()
    return ranks._await("heard", 1.0)


def main() -> None:
    join_group()
    ranks = Ranks(dist.group.WORLD)
    tensors = [torch.ones(3, device=here()) for _ in range(300)]
    given[:] = map(weakref.ref, tensors)
    begun = [ranks.add_up(t) for t in tensors]
    sys.setswitchinterval(1e3)  # nobody gets the lock who is not given it
    for each in begun:
        ranks.wait(each)


if __name__ == "__main__":
    main()
