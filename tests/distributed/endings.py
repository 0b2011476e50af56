"""What is left of a process group when it has been destroyed, and of one whose rank has failed."""

from __future__ import annotations

import weakref

import torch
import torch.distributed as dist
from distributed.agreements import fit, said
from distributed.here import here, seeded
from distributed.laws import slice_of
from small import batches
from torch import nn

from mlopt.distributed.ranks import Ranks


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
