"""Where a rank of a test computes: its own GPU, one that ranks share, or the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import small
import torch
import torch.distributed as dist

import mlopt

#: Of the environment: the device that pytest was asked for.
DEVICE = "MLOPT_TEST_DEVICE"
_Thing = TypeVar("_Thing")


def here() -> torch.device:
    """The device of this rank."""
    asked = torch.device(os.environ.get(DEVICE, "cpu"))
    if asked.type != "cuda" or asked.index is not None:
        return asked
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def join_group() -> None:
    """This process becomes a rank: of NCCL where each has a GPU of its own, else of gloo."""
    torch.set_num_threads(1)
    if here().type == "cuda":
        torch.cuda.set_device(here())
    own = here().type == "cuda" and torch.cuda.device_count() >= int(os.environ["WORLD_SIZE"])
    dist.init_process_group("nccl" if own else "gloo")


def seeded(seed: int, make: Callable[[], _Thing]) -> _Thing:
    """What a function makes after a seed, as in `small`, on the device of this rank."""
    made: Any = small.seeded(seed, make)
    if isinstance(made, torch.nn.Parameter):
        return torch.nn.Parameter(made.detach().to(here()))  # type: ignore[return-value]
    return made.to(here())


def Engine(nodes: Any, **how: Any) -> mlopt.Engine:
    """An engine whose batches come to the device of this rank."""
    return mlopt.Engine(nodes, device=here(), **how)
