"""What the first check finds out about a function's side effects: writes, draws, hidden state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._containers.containers import opened
from .._tensors import continuous
from .layouts import copy_into, same

__all__ = ["Attributes", "Copies", "change", "foreign_draws"]

#: What `nn.Module` keeps its own affairs in.
_OWN = frozenset(vars(nn.Module()))


class Copies:
    """Copies of what a function is given, so that what it writes there can be seen, and undone.

    Writes through `.data` or NumPy move no version counter, and `.data` may be assigned: values are
    compared.
    """

    def __init__(self) -> None:
        #: a name, what may be written, the memory it has, its values before
        self._held: list[tuple[str, Any, Any, Any]] = []

    def leaf(self, tensor: Tensor, name: str) -> Tensor:
        """A leaf of the same values, to be given in a tensor's place.

        Args:
            tensor: to be copied.
            name: what `written` calls it.

        Returns:
            The copy, which requires a gradient where the tensor does.
        """
        copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        self._held.append((name, copy, copy.detach(), tensor.detach()))
        return copy

    def remember(self, batch: Any, name: str) -> None:
        """Copy the tensors and arrays of a batch, which is to be given itself.

        Args:
            batch: a tensor, or what leads to some.
            name: what `written` calls it.
        """
        found = opened(batch)
        self._held += [
            (name, t, t.detach(), t.detach().clone()) for x in found.tensors for t in _parts(x)
        ]
        self._held += [(name, a, a, a.copy()) for a in found.arrays]

    def written(self) -> list[str]:
        """The names of what was written since."""
        changed = (name for name, now, _, then in self._held if not _equal(now, then))
        return list(dict.fromkeys(changed))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block that is to write nothing; what it wrote is put back if it raises."""
        try:
            yield
        except BaseException:
            self.put_back()
            raise

    @torch.no_grad()
    def put_back(self) -> None:
        """Have the old memory, and the old values in it, in all that was written."""
        for _, now, memory, then in self._held:
            if not _equal(now, then) or not _equal(memory, then):
                if isinstance(now, Tensor):
                    copy_into(memory, then)
                    now.data = memory
                else:
                    memory[...] = then


class Attributes:
    """The attributes of modules, as they are now.

    Args:
        modules: by what their names begin with.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        parts = [(f"{name}.{path}" if path else name, part.__dict__)
                 for name, module in modules for path, part in module.named_modules()]  # fmt: skip
        self._parts = [(name, held, _plain(held), _versions(held)) for name, held in parts]

    def changed(self) -> list[str]:
        """The names of those that have changed since."""
        return [f"{name}.{key}" for name, _, key in self._changes()]

    def put_back(self) -> None:
        """Let the modules have the objects that they had."""
        for _, held, key in list(self._changes()):
            before = next(plain for _, h, plain, _ in self._parts if h is held)
            if key in before:
                held[key] = before[key]
            else:
                del held[key]

    def _changes(self) -> Iterable[tuple[str, dict[str, Any], str]]:
        for name, held, before, versions in self._parts:
            now, counted = _plain(held), _versions(held)
            for key in {**before, **now}:
                same = key in before and key in now and _is(before[key], now[key])
                if not same or versions.get(key) != counted.get(key):
                    yield name, held, key


def foreign_draws() -> Callable[[], bool]:
    """Look at Python's and NumPy's global generators of random numbers.

    Returns:
        A function that says whether they have moved since, and puts them back.
    """
    python, numpy = random.getstate(), np.random.get_state()

    def moved() -> bool:
        now = np.random.get_state()
        still = all(np.array_equal(a, b) for a, b in zip(numpy, now, strict=True))
        if still and random.getstate() == python:
            return False
        random.setstate(python)
        np.random.set_state(numpy)
        return True

    return moved


def change(once: Any, again: Any) -> float:
    """How much two results differ, relative to their size; beyond what kernels in any order give.

    Args:
        once: what a function returned.
        again: what it returned at the same point.

    Returns:
        The greatest relative difference of a tensor; zero for rounding.
    """
    worst = 0.0
    for a, b in zip(_tensors(once), _tensors(again), strict=False):
        if a.shape != b.shape:
            return float("inf")
        if a.layout is not torch.strided or _equal(a, b) or not a.numel():
            continue
        a, b = (t.dequantize() if t.is_quantized else t for t in (a, b))
        a, b = (t.double() if not t.is_complex() else t for t in (a, b))
        size = torch.linalg.vector_norm(a)
        off = float(torch.linalg.vector_norm(a - b) / torch.where(size > 0, size, 1.0))
        worst = max(worst, off if off == off else float("inf"))
    # Half of the digits: no order of a sum loses as many.
    kinds = [t.dtype for t in _tensors(once) if continuous(t)]
    rounding = max((torch.finfo(k).eps ** 0.5 for k in kinds), default=0.0)
    return worst if worst > rounding else 0.0


def _tensors(result: Any) -> Sequence[Tensor]:
    found = (x.detach() for x in tree_leaves(result) if isinstance(x, Tensor))
    return [part for tensor in found for part in _parts(tensor)]


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Those of a strided nested tensor, which has no shape itself; else the tensor."""
    nested = tensor.is_nested and tensor.layout is torch.strided
    return tensor.unbind() if nested else (tensor,)


def _equal(a: Any, b: Any) -> bool:
    """The same values, NaN among them."""
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return same(a, b)


def _plain(held: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in held.items() if k not in _OWN}


def _versions(held: dict[str, Any]) -> dict[str, int]:
    return {k: v._version for k, v in held.items() if isinstance(v, Tensor)}


def _is(a: Any, b: Any) -> bool:
    plain = (bool, int, float, str)
    return a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b)
