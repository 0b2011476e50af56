"""`portable`: state as tensors and plain values, which `torch.load(weights_only=True)` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import SettingsError

__all__ = ["arrays", "portable"]

#: What is immutable, and read back as it is: of these very classes.
_WORDS = frozenset({
    type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size,
})  # fmt: skip
_BASES: tuple[Any, ...] = (bool, int, float, complex, str, bytes)


def portable(held: Any, name: str, copy: Callable[[Tensor], Tensor] = torch.clone) -> Any:
    """The same state as tensors, numbers, words, lists, tuples, sets and dicts.

    Scalars of NumPy become numbers, its arrays tensors, what is of subclasses plain.

    Args:
        held: state.
        name: whose it is, for the error.
        copy: of a tensor without its graph.

    Returns:
        The state; no container or tensor in it is the user's own.

    Raises:
        SettingsError: there is something else in it.
    """
    if isinstance(held, Tensor):
        return copy(held.detach())
    if type(held) in _WORDS:
        return held
    if isinstance(held, np.generic) and type(held.item()) in _WORDS:
        return held.item()
    if isinstance(held, _BASES):  # of a class of its own
        return next(kind for kind in _BASES if isinstance(held, kind))(held)
    if isinstance(held, np.ndarray) and held.dtype.kind in "biufc":
        return torch.from_numpy(np.array(held, order="C"))
    if isinstance(held, dict):
        pairs = ((k, v, f"{name}[{k!r}]") for k, v in held.items())
        return {portable(k, f"the key {at}", copy): portable(v, at, copy) for k, v, at in pairs}
    if isinstance(held, list | tuple | set | frozenset):
        found = [portable(part, f"{name}[{i}]", copy) for i, part in enumerate(held)]
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(held, k))
        return found if kind is list else set(found) if kind is frozenset else kind(found)
    raise SettingsError(
        f"{name} is a {type(held).__name__}, which cannot be read back safely: what is saved is "
        "made of tensors, numbers, words, and lists, tuples, sets and dicts of these. Let the "
        "state_dict() that gives it give such values."
    )


def arrays(state: Any) -> Any:
    """The way back for what was made of arrays alone: tensors as arrays of NumPy."""
    if isinstance(state, Tensor):
        return state.numpy()
    if isinstance(state, dict):
        return {key: arrays(value) for key, value in state.items()}
    return state
