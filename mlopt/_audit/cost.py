"""What evaluations cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .._evaluation.point import Evaluator

__all__ = ["Took", "costs"]


@dataclass
class Took:
    """What something took.

    Attributes:
        evaluations: of objectives and signals.
        milliseconds: of wall time.
        peak_bytes: greatest memory allocated on the CUDA device, None elsewhere.
    """

    evaluations: int = 0
    milliseconds: float = 0.0
    peak_bytes: int | None = None


@contextmanager
def costs(evaluator: Evaluator) -> Iterator[Took]:
    """Measure a block: evaluations, time, and memory on CUDA devices.

    Args:
        evaluator: whose evaluations count.

    Yields:
        The measurement, complete when the block has ended.
    """
    cost, before = Took(), sum(evaluator.count.values())
    for i in evaluator.cuda:
        torch.cuda.synchronize(i)
        torch.cuda.reset_peak_memory_stats(i)
    start = time.perf_counter()
    yield cost
    for i in evaluator.cuda:
        torch.cuda.synchronize(i)
    cost.milliseconds = 1e3 * (time.perf_counter() - start)
    cost.evaluations = sum(evaluator.count.values()) - before
    if evaluator.cuda:
        cost.peak_bytes = sum(torch.cuda.max_memory_allocated(i) for i in evaluator.cuda)
