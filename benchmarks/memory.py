"""The most memory in use: of the process or of the device, and of the tensors of one call."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes", "peak_kib"]


def peak_bytes(device: str, reset: bool = False) -> int:
    """The greatest memory in use since the last reset: the device's, or this process's own.

    Of a device it is what tensors have allocated, so that contestants can be measured one after
    the other; the memory of a process does not shrink again, and each needs one of its own.
    """
    if reset:
        gc.collect()  # or what is freed later would be taken from what is measured
    if device != "cpu":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:  # Linux: the high-water mark becomes what is resident now
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_kib(call: Callable[[], object], device: str) -> float:
    """Most tensor memory that a call has allocated at a time."""
    gc.collect()  # what is freed inside must have been allocated inside
    if device != "cpu":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**10
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    found: Any = record.profiler
    events = [e for e in found.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**10
