"""Derivatives by key: the one place where the library goes back through a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .._tensors import Tensors, dense, grad_mode, norm

__all__ = [
    "backward_passes",
    "common_length",
    "derivatives",
    "is_differentiated_by",
    "scaled",
    "uncounted",
]

_count = 0
_uncounted = False
_scale: float | None = None
_common: Callable[[Tensor], Tensor] | None = None
#: By what the pass differentiates that is under way: their ids.
_by: frozenset[int] = frozenset()
#: Powers of two by which cotangents are brought to the scale, at the most: float32 holds them.
_RANGE = 64


def backward_passes() -> int:
    """How many there have been in this process; a difference of two says what a block needed."""
    return _count


@contextmanager
def scaled(by: float | None) -> Iterator[None]:
    """Have every gradient computed from so much more than itself in a block, as fp16 needs it.

    A gradient is linear in the cotangents that it begins with. Here these are multiplied until
    their 2-norm is about the scale, and what arrives is divided by as much, in the dtype of what it
    was taken by. Both are powers of two, so that neither rounds. In between the numbers are large
    enough not to vanish in fp16; where they are too large, what arrives is not finite. A gradient
    that is differentiated in its turn has the division in its graph, so that the direction of a
    second derivative arrives there with a length of about one.

    It is of the process, as autograd's threads are: one engine at a time works.

    Args:
        by: a power of two; None for as it is.
    """
    global _scale
    before, _scale = _scale, by
    try:
        yield
    finally:
        _scale = before


@contextmanager
def common_length(common: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """In a block, let `scaled` go by the cotangents of all ranks whose graphs hang together.

    Args:
        common: this rank's length -> the same on all ranks; None where each goes by its own.
    """
    global _common
    before, _common = _common, common
    try:
        yield
    finally:
        _common = before


def is_differentiated_by(tensor: Tensor) -> bool:
    """Whether the pass that is under way is known to be by this tensor.

    Args:
        tensor: of which a function of autograd asks, in its backward.

    Returns:
        True if it is; False tells nothing.
    """
    return id(tensor) in _by


@contextmanager
def uncounted(uncounted: bool = True) -> Iterator[None]:
    """What goes back through graphs in a block counts no pass: it is a part of one that does.

    Args:
        uncounted: False leaves the block as any other.
    """
    global _uncounted
    before, _uncounted = _uncounted, _uncounted or uncounted
    try:
        yield
    finally:
        _uncounted = before


def derivatives(
    outputs: Sequence[Tensor],
    inputs: Tensors,
    cotangents: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    sparse: bool = False,
) -> Tensors:
    """The vector-Jacobian product of some tensors, by those of the inputs they depend on.

    Args:
        outputs: what is differentiated.
        inputs: by what, by key.
        cotangents: one for each output; None for a lone scalar.
        create_graph: whether the result is to be differentiated in its turn.
        retain_graph: whether the graph will be gone through again; by default as `create_graph`.
        sparse: whether sparse gradients (`nn.Embedding(sparse=True)`) stay so, as an optimizer may
            want them; nothing else can be computed of them.

    Returns:
        Tensors by key; inputs that nothing depends on are absent.
    """
    global _count, _by
    if not outputs or not inputs:
        return {}
    _count += not _uncounted
    size = None if _scale is None or _scales_inside(outputs) else _scale
    if size is not None:
        cotangents, back = _enlarged(size, outputs, cotangents)
    keep = create_graph if retain_graph is None else retain_graph
    by = tuple(inputs.values())
    run = _engine()
    around, _by = _by, frozenset(map(id, by))
    try:
        if run is None:
            found = torch.autograd.grad(
                outputs, by, cotangents, keep, create_graph, allow_unused=True
            )
        else:
            along = [torch.ones_like(t) for t in outputs] if cotangents is None else cotangents
            found = run(tuple(outputs), tuple(along), keep, create_graph, by, True, False)
    finally:
        _by = around
    out = {k: g for k, g in zip(inputs, found, strict=True) if g is not None}
    if size is not None:
        with grad_mode(create_graph or None):
            out = {k: _times(g, back) for k, g in out.items()}
    return out if sparse else dense(out)


def _scales_inside(outputs: Sequence[Tensor]) -> bool:
    """Whether what is differentiated goes back through graphs of its own, by this function."""
    made = (getattr(t.grad_fn, "_forward_cls", None) for t in outputs)
    return any(getattr(function, "scales_inside", False) for function in made)


def _enlarged(
    scale: float, outputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None
) -> tuple[list[Tensor], Tensor | float]:
    """Cotangents as long as the scale, and the factor that undoes that."""
    if cotangents is None:
        return [torch.full_like(t, scale) for t in outputs], 1 / scale
    length = norm({(None, str(i)): t.detach() for i, t in enumerate(cotangents)}, wide=True)
    if _common is not None:
        length = _common(length)
    exponent = torch.frexp(length).exponent.clamp(-_RANGE, _RANGE)
    factor = torch.ldexp(torch.full_like(length, scale), -exponent)
    return [_times(t, factor) for t in cotangents], factor.reciprocal()


def _times(tensor: Tensor, factor: Tensor | float) -> Tensor:
    """A tensor times a factor on any device, which may lie beyond the range of its dtype."""
    if isinstance(factor, Tensor):
        factor = factor.to(tensor.device)
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return (tensor.float() * factor).to(tensor.dtype)
    return tensor * factor


@functools.cache
def _engine() -> Callable[..., Sequence[Tensor | None]] | None:
    """The call that `torch.autograd.grad` ends in, if this torch has it as it is known here.

    The checks before it are of arguments that are always right here.

    Returns:
        (outputs, cotangents, keep the graph, make one of the result, inputs, may some be unused,
        add to .grad) -> gradients; None where it is not found or does something else.
    """
    try:
        run = torch.autograd.Variable._execution_engine.run_backward  # type: ignore[attr-defined]
        with torch.enable_grad():
            x, unused = (torch.ones((), requires_grad=True) for _ in range(2))
            y = 3 * x
            found = run((y,), (torch.ones_like(y),), False, False, (x, unused), True, False)
    except Exception:  # whatever a torch raises that has no such call
        return None
    as_known = len(found) == 2 and found[1] is None and x.grad is None and found[0].item() == 3
    return run if as_known else None
