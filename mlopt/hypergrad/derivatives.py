"""Derivatives by key: the one place where the library goes back through a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._tensors import Tensors, dense

__all__ = ["backward_passes", "derivatives"]

_count = 0


def backward_passes() -> int:
    """How many there have been in this process; a difference of two says what a block needed."""
    return _count


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
    global _count
    if not outputs or not inputs:
        return {}
    _count += 1
    keep = create_graph if retain_graph is None else retain_graph
    by = tuple(inputs.values())
    run = _engine()
    if run is None:
        found = torch.autograd.grad(
            outputs, by, cotangents, retain_graph=keep, create_graph=create_graph, allow_unused=True
        )
    else:
        along = [torch.ones_like(t) for t in outputs] if cotangents is None else cotangents
        found = run(tuple(outputs), tuple(along), keep, create_graph, by, True, False)
    out = {k: g for k, g in zip(inputs, found, strict=True) if g is not None}
    return out if sparse else dense(out)


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
