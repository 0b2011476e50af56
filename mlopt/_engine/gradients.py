"""`given`: gradients as an optimizer may expect them."""

from __future__ import annotations

from torch import Tensor, UntypedStorage, empty_like

from .._evaluation.aliases import address
from .._tensors import Tensors

__all__ = ["given"]

_start = UntypedStorage.data_ptr


def given(parameters: Tensors, gradient: Tensors, anyones: bool) -> Tensors:
    """A gradient as `Tensor.backward` leaves it: memory of its own, laid out as the parameter is.

    What autograd returns may be one tensor for two parameters, a view in which one number repeats,
    or laid out in another order. But optimizers and their hooks write into gradients, and fused
    kernels read them in the order of the parameter's memory.

    Args:
        parameters: by key.
        gradient: by some of these keys.
        anyones: whether a backward of the user's own may have returned memory of anybody's.

    Returns:
        The same numbers; and the very same tensors where they are as they have to be.
    """
    if not anyones and _are_so(gradient, parameters):
        return gradient
    taken: set[int] = set()
    out: Tensors = {}
    for key, g in gradient.items():
        if not g.is_sparse:
            if anyones or address(g) in taken or not _alike(parameters[key], g):
                g = empty_like(parameters[key]).copy_(g)
            taken.add(address(g))
        out[key] = g
    return out


def _are_so(gradient: Tensors, parameters: Tensors) -> bool:
    """Whether each has memory of its own, and is laid out as its parameter."""
    try:
        if len(gradient) == 1:  # as of architecture weights, often
            ((key, g),) = gradient.items()
            return g.stride() == parameters[key].stride()
        found, own = [*gradient.values()], [parameters[k] for k in gradient]
        if [*map(Tensor.stride, found)] != [*map(Tensor.stride, own)]:
            return False
        return len({*map(_start, map(Tensor.untyped_storage, found))}) == len(own)
    except RuntimeError:  # sparse ones have neither
        return False


def _alike(parameter: Tensor, gradient: Tensor) -> bool:
    """Whether both have their numbers in the same places; dimensions of one number have none."""
    strides = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    return all(own == other for size, own, other in strides if size > 1)
