"""Time of steps in alternated rounds, and ratios of it: a ratio holds on a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["ratio", "rounds", "seconds"]


def seconds(step: Callable[[], object], device: str) -> float:
    """What one call takes until the device has done all of it, and nothing of what was before."""
    wait(device)
    began = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - began


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def rounds(
    steps: Mapping[str, Callable[[], object]], count: int, device: str
) -> dict[str, list[float]]:
    """Seconds of each contestant's steps, taken in rounds; the order turns with every round."""
    for step in [*steps.values(), *steps.values()]:
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for i in range(count):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds(steps[name], device))
    return times


def ratio(one: list[float], two: list[float]) -> str:
    """Median and quartiles of the ratio one/two, pair by pair."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(one, two, strict=True)], n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
