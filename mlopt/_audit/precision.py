"""The engine in double precision for a while."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._engine.engine import Engine

__all__ = ["is_narrow", "wide_batch", "widened"]


@contextmanager
def widened(engine: Engine) -> Iterator[None]:
    """All that the engine computes on, in float64 for a block; then the very tensors as before.

    The tensors of the user's own modules, of the optimizers' states, and of what the functions
    close over take other data for a while: so what the functions hold themselves is widened too,
    which no copy of the modules would do.
    """
    tensors: dict[int, Tensor] = {}
    for held in _holders(engine):
        _collect(held, tensors, set())
    narrow = [t for t in tensors.values() if is_narrow(t.dtype)]
    data = [t.data for t in narrow]
    dtype = torch.get_default_dtype()
    try:
        for t in narrow:
            t.data = _wide(t.data)
        if narrow:
            torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(dtype)
        for t, d in zip(narrow, data, strict=True):
            t.data = d


def _holders(engine: Engine) -> Iterator[Any]:
    yield [v.value for v in engine.graph.variables]
    yield [s.state for s in engine.graph.signals if s.state is not None]
    for p in engine.graph.problems:
        if p.optimizer is not None:
            yield from p.optimizer.state.values()
    yield [node.fn for node in engine.graph.nodes]


def _collect(held: Any, tensors: dict[int, Tensor], seen: set[int]) -> None:
    """The tensors in modules, functions and plain containers; other objects are left alone."""
    if id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, Tensor):
        if held.is_leaf:
            tensors[id(held)] = held
    elif isinstance(held, nn.Module):
        for t in [*held.parameters(), *held.buffers()]:
            tensors[id(t)] = t
    elif isinstance(held, dict):
        for name, value in held.items():
            if name != "step":  # torch counts an optimizer's steps in float32
                _collect(value, tensors, seen)
    elif isinstance(held, list | tuple):
        for value in held:
            _collect(value, tensors, seen)
    elif isinstance(held, types.FunctionType):
        cells = [c.cell_contents for c in held.__closure__ or () if _filled(c)]
        names = [held.__globals__.get(n) for n in held.__code__.co_names]
        for value in [*cells, *names, *(held.__defaults__ or ())]:
            same = not isinstance(value, types.FunctionType) or value.__module__ == held.__module__
            if same:
                _collect(value, tensors, seen)
    elif isinstance(held, types.MethodType):
        _collect(held.__self__, tensors, seen)
        _collect(held.__func__, tensors, seen)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def wide_batch(batch: Any) -> Any:
    """A batch whose floating point tensors are float64."""
    if isinstance(batch, Tensor):
        return _wide(batch)
    if isinstance(batch, dict):
        return {k: wide_batch(v) for k, v in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [wide_batch(v) for v in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether numbers that gradients are taken by have fewer digits in it than in float64."""
    return (dtype.is_floating_point or dtype.is_complex) and torch.finfo(dtype).bits < 64


def _wide(tensor: Tensor) -> Tensor:
    if not is_narrow(tensor.dtype):
        return tensor
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()
