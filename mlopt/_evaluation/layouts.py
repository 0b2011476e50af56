"""Tensors of any layout: what they are made of, and how one is written or compared.

Sparse, nested and quantised ones, and those that were made in inference mode, are refused by many
of torch's functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import GraphError, exhausted
from .._tensors import numbers

__all__ = ["check_copies", "copy", "copy_into", "extent", "form", "plain", "same", "size"]

_BY_ROWS = frozenset({torch.sparse_csr, torch.sparse_bsr})
_COMPRESSED = _BY_ROWS | {torch.sparse_csc, torch.sparse_bsc}
#: What torch does not compare.
_OPAQUE = frozenset(
    held
    for name, held in vars(torch).items()
    if isinstance(held, torch.dtype) and name.startswith(("bits", "float4_"))
)


def plain(tensor: Tensor) -> bool:
    """Whether it is an array as torch's kernels for many at once take it, and write to it."""
    odd = tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return tensor.layout is torch.strided and not odd and not tensor.is_inference()


def extent(tensor: Tensor) -> torch.Size:
    """Its shape; of a nested tensor that of all its numbers."""
    return tensor.values().shape if tensor.is_nested else tensor.shape


def form(tensor: Tensor) -> Any:
    """What two tensors have alike if one can be copied into the other."""
    if tensor.is_nested and tensor.layout is torch.strided:  # it has no shape
        return tensor.layout, tensor._nested_tensor_size().tolist()
    inside = tensor.values().shape if tensor.layout in _COMPRESSED else None
    return tensor.layout, tensor.shape, inside


def copy(tensor: Tensor, name: str = "a tensor that a step may change") -> Tensor:
    """A copy of a tensor.

    Args:
        tensor: no gradients are recorded where this is called.
        name: what the error calls it.

    Returns:
        The copy.

    Raises:
        GraphError: torch has none for tensors of its kind.
        RuntimeError: memory has run out.
    """
    try:
        return tensor.clone()
    except RuntimeError as error:
        if exhausted(error):
            raise
        raise GraphError(
            f"{name} cannot be copied, and a step that fails could not put it back: a tensor of "
            f"{tensor.dtype}, {tensor.layout} ({error}). Have it in another dtype or layout, or "
            "let no module and no optimizer of the graph hold it."
        ) from error


def check_copies(name: str, module: nn.Module) -> None:
    """Refuse buffers that cannot be copied.

    Args:
        name: whose module it is.
        module: may have some.

    Raises:
        GraphError: it has.
    """
    for path, buffer in module.named_buffers():
        if not plain(buffer):
            copy(buffer.detach(), f"the buffer {path} of {name}")


def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Write values of the same form into a tensor, whoever made it."""
    if tensor.is_inference():
        with torch.inference_mode():
            tensor.copy_(value)
    else:
        tensor.copy_(value)


def _stored(tensor: Tensor) -> Sequence[Tensor]:
    """The arrays in which a tensor keeps what it holds."""
    if tensor.is_sparse:
        return tensor._indices(), tensor._values()
    if tensor.layout in _BY_ROWS:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in _COMPRESSED:
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if tensor.is_nested:
        return (tensor.values(),)
    if tensor.is_mkldnn:
        return (tensor.to_dense(),)
    if tensor.is_quantized:
        return tensor.int_repr(), tensor.dequantize()
    return (tensor,)


def size(tensor: Tensor) -> int:
    """The bytes that it takes."""
    parts = (tensor,) if tensor.is_quantized else _stored(tensor)
    return sum(t.numel() * t.element_size() for t in parts)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are of one form and hold the same, nan among it."""
    if (a.dtype, a.device) != (b.dtype, b.device) or form(a) != form(b):
        return False
    return a.is_meta or all(map(_equal, _stored(a), _stored(b)))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype in _OPAQUE:
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    a, b = numbers(a), numbers(b)
    return torch.equal(a, b) or torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))
