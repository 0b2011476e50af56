"""What the first step really cost: calls of each network, time, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._variable import Variable

__all__ = ["Measurement", "measure"]


@dataclass
class Measurement:
    """The cost of one step, measured.

    Attributes:
        calls: calls of each module variable, by its name (calls of other methods are not seen, nor
            those of scripted modules, which take no hooks).
        seconds: wall time, the first step's warm-up included.
        peak_bytes: greatest memory allocated on the CUDA device, None elsewhere.
    """

    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int | None = None

    def __str__(self) -> str:
        calls = ", ".join(f"{name} {n}" for name, n in self.calls.items())
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / 2**20:.0f} MiB at most"
        return f"first step: {self.seconds:.2f} s{memory}; forward passes: {calls or 'none'}"


@contextmanager
def measure(variables: Iterable[Variable], device: torch.device | None) -> Iterator[Measurement]:
    """Count the forward passes of each module for a block, by hooks that are removed after it.

    Args:
        variables: of the graph.
        device: whose memory is measured, if it is a CUDA device.

    Yields:
        The measurement, complete when the block has ended.
    """
    result = Measurement()
    hooks = []
    for variable in variables:
        value = variable.value
        if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
            result.calls[variable.name] = 0

            def count(module: nn.Module, args: Any, name: str = variable.name) -> None:
                del module, args
                result.calls[name] += 1

            hooks.append(value.register_forward_pre_hook(count))
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - start
        if cuda:
            result.peak_bytes = torch.cuda.max_memory_allocated(device)
        for hook in hooks:
            hook.remove()
