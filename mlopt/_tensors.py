"""Arithmetic on dictionaries of tensors, by torch's foreach kernels."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

__all__ = [
    "FLOAT8",
    "Key",
    "Many",
    "Spread",
    "Tensors",
    "accumulate",
    "add_scaled",
    "added",
    "apart",
    "clone",
    "continuous",
    "dense",
    "dot",
    "grad_mode",
    "difference",
    "grouped",
    "like",
    "multiplied",
    "negative",
    "norm",
    "numbers",
    "plus",
    "real",
    "requiring",
    "scale",
    "spread",
    "spread_over",
    "stacked",
    "subtracted",
    "unrecorded",
]

#: A tensor's name: the variable or signal it belongs to, and its name in there, or "".
Key = tuple[Any, str]
Tensors = dict[Key, Tensor]
Many = tuple[Tensor, ...] | list[Tensor]
_F = TypeVar("_F", bound=Callable[..., Any])


class Spread(Protocol):
    """Tensors of which this process has some rows alone, and others have the rest.

    Whatever is computed number by number of such tensors is computed of the rows. A number that is
    made of all of them needs those of the others.
    """

    def __contains__(self, key: object) -> bool: ...

    def add(self, numbers: Tensor) -> Tensor: ...  #: the sums over processes; differentiable
    def first(self, place: int) -> int: ...  #: the first of what the processes name
    def most(self, numbers: Tensor) -> Tensor: ...  #: the greatest of all, or nan; without a graph


_spread: Spread | None = None


def spread() -> Spread | None:
    """What is spread over processes in the work that goes on; None if nothing is."""
    return _spread


@contextmanager
def spread_over(over: Spread | None) -> Iterator[None]:
    """In a block, some tensors are spread over processes: of all threads, as autograd's are."""
    global _spread
    before, _spread = _spread, over
    try:
        yield
    finally:
        _spread = before


class grad_mode:  # noqa: N801 - used as torch.enable_grad is
    """Have torch record gradients in a block, or not; an evaluation has several such blocks.

    Torch's own, which are decorators as well, take several times as long.

    Args:
        on: whether it does; None for as it is.
    """

    __slots__ = ("_before", "_on")

    def __init__(self, on: bool | None) -> None:
        self._on = on

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        if self._on is not None:
            torch._C._set_grad_enabled(self._on)

    def __exit__(self, *exception: object) -> None:
        torch._C._set_grad_enabled(self._before)


def unrecorded(function: _F) -> _F:
    """Have a function compute without a record of gradients; see `grad_mode`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with grad_mode(False):
            return function(*args, **kwargs)

    return cast(_F, run)


_is_sparse = operator.attrgetter("is_sparse")
#: What holds infinity or nan, and is not computed in: which there are depends on torch.
FLOAT8 = frozenset(
    d for n, d in vars(torch).items() if n.startswith("float8_") and isinstance(d, torch.dtype)
)
_REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
#: What torch's kernels for many tensors at once compute in.
_COMPUTED = _REAL | {
    torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


# As a list of one, a lone tensor would cost twice as much: architecture weights are often lone.


def added(a: Many, b: Many, factor: float = 1) -> Many:
    """Of each pair a + factor b."""
    if len(a) == 1:
        return (torch.add(a[0], b[0], alpha=factor),)
    return torch._foreach_add(a, b, alpha=factor)


def subtracted(a: Many, b: Many) -> Many:
    """Of each pair a - b."""
    return (a[0] - b[0],) if len(a) == 1 else torch._foreach_sub(a, b)


def multiplied(a: Many, factor: Tensor | float) -> Many:
    """Of each factor a."""
    try:
        return (a[0] * factor,) if len(a) == 1 else torch._foreach_mul(a, factor)
    except RuntimeError:  # they may be on other devices than the factor, and than one another
        if not isinstance(factor, Tensor) or all(t.device == factor.device for t in a):
            raise
    return tuple(t * factor.to(t.device) for t in a)


def norm(tensors: Tensors, wide: bool = False) -> Tensor:
    """The 2-norm of all tensors together, a scalar on their device; zero for none.

    Args:
        tensors: by key.
        wide: take it in float64, of the tensors divided by their greatest number: two passes more,
            and finite where they are.

    Returns:
        The norm.
    """
    if _spread is not None and any(k in _spread for k in tensors):
        return _norm_over(_spread, tensors, wide)
    values = list(tensors.values())
    if wide:
        values = [t for t in map(numbers, values) if t.numel()]
    if not values:
        return torch.zeros(())
    if wide:
        peak = stacked([t.abs().amax().double() for t in values]).amax()
        scale = torch.where(peak > 0, peak, 1.0)
        lengths = [torch.linalg.vector_norm(t.double() / scale.to(t.device)) for t in values]
        return scale * torch.linalg.vector_norm(stacked(lengths))
    if any(map(_is_sparse, values)):  # of which not every torch takes norms
        values = [*map(numbers, values)]
    if len(values) == 1:
        return torch.linalg.vector_norm(values[0])
    return torch.linalg.vector_norm(stacked(torch._foreach_norm(values)))


def stacked(scalars: Many) -> Tensor:
    """Numbers in a row, on the device of the first."""
    try:
        return torch.stack([*scalars])
    except RuntimeError:  # they may be on several
        if all(t.device == scalars[0].device for t in scalars):
            raise
    return torch.stack([t.to(scalars[0].device) for t in scalars])


def _norm_over(over: Spread, tensors: Tensors, wide: bool) -> Tensor:
    """The 2-norm of tensors of which some are spread, without a graph; see `norm`."""
    held = {k: t.detach() for k, t in tensors.items()}
    with spread_over(None):
        rows = norm({k: t for k, t in held.items() if k in over}, wide)
        rest = norm({k: t for k, t in held.items() if k not in over}, wide).to(rows.device)
    peak = over.most(torch.maximum(rows, rest.to(rows.dtype)).double())
    by = torch.where(peak > 0, peak, 1.0)
    squared = over.add((rows.double() / by) ** 2) + (rest.double() / by) ** 2
    return (by * squared.sqrt()).to(rows.dtype)


def dot(a: Tensors, b: Tensors) -> Tensor:
    """The sum of the products of all numbers of two trees, by the keys that both have."""
    both = [k for k in a if k in b]
    if not both:
        return torch.zeros(())
    pairs = {k: (a[k] * b[k]).sum() for k in both}
    if _spread is None or not any(k in _spread for k in both):
        return torch.stack([*pairs.values()]).sum()
    rows = _spread.add(torch.stack([t for k, t in pairs.items() if k in _spread]).sum())
    rest = [t for k, t in pairs.items() if k not in _spread]
    return rows + torch.stack(rest).sum() if rest else rows


def add_scaled(base: Tensors, direction: Tensors, factor: Tensor | float) -> Tensors:
    """Move by factor * direction from base; keys it lacks keep their very tensors."""
    keys = list(direction)
    if not keys:
        return dict(base)
    moved = added([base[k] for k in keys], multiplied([direction[k] for k in keys], factor))
    return {**base, **dict(zip(keys, moved, strict=True))}


def apart(base: Tensors, direction: Tensors, factor: Tensor) -> list[Tensors]:
    """Move by factor * direction to both sides of base: plus, then minus."""
    keys = list(direction)
    if not keys:
        return [dict(base), dict(base)]
    held, change = [base[k] for k in keys], multiplied([*direction.values()], factor)
    sides = added(held, change), subtracted(held, change)
    return [{**base, **dict(zip(keys, side, strict=True))} for side in sides]


def difference(plus: Tensors, minus: Tensors, factor: Tensor | float) -> Tensors:
    """Take factor * (plus - minus); a key that one side lacks counts as zero there."""
    both = [k for k in plus if k in minus]
    values = subtracted([plus[k] for k in both], [minus[k] for k in both]) if both else ()
    out = dict(zip(both, values, strict=True))
    if len(both) < len(plus) or len(both) < len(minus):
        out.update({k: t for k, t in plus.items() if k not in minus})
        out.update({k: -t for k, t in minus.items() if k not in plus})
    return scale(out, factor)


def negative(tensors: Tensors) -> Tensors:
    """Each with the other sign."""
    if not tensors:
        return {}
    if len(tensors) == 1:
        return {k: -t for k, t in tensors.items()}
    return dict(zip(tensors, torch._foreach_neg([*tensors.values()]), strict=True))


def scale(tensors: Tensors, factor: Tensor | float) -> Tensors:
    """Multiply each by the factor."""
    if not tensors:
        return {}
    return dict(zip(tensors, multiplied([*tensors.values()], factor), strict=True))


def grouped(tensors: Tensors) -> dict[Any, dict[str, Tensor]]:
    """The same by source: for each variable or signal its tensors by name."""
    groups: dict[Any, dict[str, Tensor]] = {}
    for (source, name), tensor in tensors.items():
        groups.setdefault(source, {})[name] = tensor
    return groups


def accumulate(total: Tensors, more: Tensors) -> None:
    """Add to total, key by key; never in place on a tensor, which others may hold."""
    for key, tensor in more.items():
        held = total.get(key)
        total[key] = tensor if held is None else plus(held, tensor)


def plus(a: Tensor, b: Tensor) -> Tensor:
    """The sum; torch adds what is sparse to what is dense, and not the reverse."""
    return b + a if a.is_sparse else a + b


def dense(tensors: Tensors) -> Tensors:
    """The same with sparse ones filled up: gradients of embeddings, of which more is computed."""
    if not any(map(_is_sparse, tensors.values())):
        return tensors
    with torch.enable_grad():  # where they are to be differentiated in their turn
        return {k: t.to_dense() if t.is_sparse else t for k, t in tensors.items()}


def numbers(tensor: Tensor) -> Tensor:
    """All of its real numbers that may be other than zero, each once, as torch takes norms of."""
    if tensor.dtype in _REAL and tensor.layout is torch.strided and not tensor.is_nested:
        return tensor
    if tensor.is_mkldnn:
        tensor = tensor.to_dense()
    elif tensor.layout is not torch.strided or tensor.is_nested:
        tensor = (tensor.coalesce() if tensor.is_sparse else tensor).values()
    return real(tensor.float() if tensor.dtype in FLOAT8 else tensor)


def continuous(tensor: Tensor) -> bool:
    """Whether it can have a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones: as such they are optimized, and solved for."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def requiring(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, all of which require gradients, as the parameters that they stand for."""
    return {k: t if t.requires_grad else t.detach().requires_grad_() for k, t in tensors.items()}


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """The way back from `real`, where the other tensor is complex; of its dtype in any case."""
    tensor = tensor.to(other.dtype.to_real())
    return torch.complex(*tensor.unbind(-1)) if other.is_complex() else tensor


def clone(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Independent copies, one kernel per dtype and device instead of one per tensor.

    Copies must not be views of one flat tensor: views share a version counter, and autograd then
    takes a write to one buffer for a write to every other.

    Returns:
        The copies, in the same order.
    """
    out: list[Tensor] = [tensors[0]] * len(tensors) if tensors else []
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, t in enumerate(tensors):
        groups.setdefault((t.dtype, t.device), []).append(i)
    for (dtype, _), indices in groups.items():
        group = [tensors[i] for i in indices]
        # Multiplying by one is the only foreach copy that allocates; it would turn bool into int.
        at_once = dtype in _COMPUTED
        copies = torch._foreach_mul(group, 1) if at_once else [t.clone() for t in group]
        for i, copy in zip(indices, copies, strict=True):
            out[i] = copy
    return out
