"""`cuda_devices`: those whose generators an evaluation seeds."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .._variable import Variable

__all__ = ["cuda_devices"]


def cuda_devices(variables: Iterable[Variable], device: torch.device | None) -> tuple[int, ...]:
    """The CUDA devices on which a graph draws random numbers."""
    devices = {p.device for v in variables for p in v.parameters()} | (
        {device} if device else set()
    )
    return tuple(
        sorted(
            {
                d.index if d.index is not None else torch.cuda.current_device()
                for d in devices
                if d.type == "cuda"
            }
        )
    )
