"""What torch's profiler saw of some steps, as a list of events in time."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

__all__ = ["Event", "caller", "trace"]

_SPAN = "the traced steps"


@dataclass(frozen=True)
class Event:
    """A stretch of time on the host or on the device.

    Attributes:
        name: of an operation, a call of the CUDA runtime, or a Python function with its line.
        kind: the profiler's category: "cpu_op", "cuda_runtime", "python_function", ...
        begin: in microseconds.
        end: likewise.
    """

    name: str
    kind: str
    begin: float
    end: float

    def inside(self, other: Event) -> bool:
        """In time, whatever the thread: a backward pass runs in one of its own."""
        return other.begin <= self.begin and self.end <= other.end


def trace(
    call: Callable[[], object], device: str, marked: str, *, stacks: bool = False
) -> list[Event]:
    """The events of a call.

    Args:
        call: what is traced.
        device: on which it computes.
        marked: name of the events for values that Python takes out of a tensor of the CPU, which
            the profiler does not see by itself.
        stacks: whether Python functions are among the events; it takes far longer.

    Returns:
        The events inside of the call, not those of the profiler's own beginning and end, which
        wait for the device, too.
    """
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    marks = _reads_marked(marked) if device == "cpu" else contextlib.nullcontext()
    with profile(activities=activities, with_stack=stacks) as record, marks:
        with record_function(_SPAN):
            call()
        if device != "cpu":
            torch.cuda.synchronize(device)  # outside of the span
    events = _exported(record)
    (span,) = [e for e in events if e.name == _SPAN and e.kind == "user_annotation"]
    return [e for e in events if e is not span and e.inside(span)]


def caller(event: Event, events: Iterable[Event]) -> str | None:
    """The innermost Python function around an event that is not torch's own, with its line."""
    around = [
        other
        for other in events
        if other.kind == "python_function"
        and re.search(r"\.py\(\d+\)", other.name)  # no built-in function
        and not re.search(r"(^|/)torch/|step_trace\.py", other.name)
        and event.inside(other)
    ]
    return min(around, key=lambda e: e.end - e.begin).name if around else None


def _exported(record: Any) -> list[Event]:
    """By way of the file that the profiler writes: its format is public, and has everything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [
        Event(e["name"], e.get("cat", ""), e["ts"], e["ts"] + e["dur"])
        for e in found
        if e.get("ph") == "X"
    ]


@contextlib.contextmanager
def _reads_marked(name: str) -> Iterator[None]:
    """Name, for the profiler, the reads that leave no operation behind on the CPU."""
    originals = {method: getattr(Tensor, method) for method in ("tolist", "numpy", "cpu")}

    def marking(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return original(self, *args, **kwargs)

        return read

    for method, original in originals.items():
        setattr(Tensor, method, marking(original))
    try:
        yield
    finally:
        for method, original in originals.items():
            setattr(Tensor, method, original)
