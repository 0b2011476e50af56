"""Tensors of every layout and dtype, made of six numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from small import F64
from torch import Tensor

NAN, INF = float("nan"), float("inf")
V = torch.tensor([1.0, 2.0, 4.0, 8.0, 2.0, 1.0], dtype=F64)  # powers of two are exact everywhere
AT = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 2, 1, 3, 0, 3]])


class Layout(NamedTuple):
    """How a tensor is made of six numbers, and read."""

    make: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    floats: bool = True


def matrix(v: Tensor) -> Tensor:
    return torch.zeros(4, 4, dtype=v.dtype).index_put((AT[0], AT[1]), v)


def places(t: Tensor) -> Tensor:
    return t.to_dense()[AT[0], AT[1]]


def halves(v: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(AT.repeat(1, 2), torch.cat([v, v]) / 2, (4, 4))


def nested(v: Tensor, layout: Any = torch.strided) -> Tensor:
    return torch.nested.nested_tensor([v[:2], v[2:]], layout=layout)


def joined(t: Tensor) -> Tensor:
    return torch.cat(t.unbind())


def by_channel(v: Tensor, zeros: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.quantize_per_channel(v.float(), torch.ones(6), zeros, 0, dtype)


def in_inference(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def made(v: Tensor) -> Tensor:
        with torch.inference_mode():
            return make(v).clone()

    return made


def cast(dtype: torch.dtype) -> Layout:
    return Layout(lambda v: v.float().to(dtype), lambda t: t.float().to(F64))


LAYOUTS: dict[str, Layout] = {
    "plain": Layout(torch.clone, torch.clone),
    "coo": Layout(lambda v: matrix(v).to_sparse(), places),
    "coo, uncoalesced": Layout(halves, places),
    "csr": Layout(lambda v: matrix(v).to_sparse_csr(), places),
    "csc": Layout(lambda v: matrix(v).to_sparse_csc(), places),
    "bsr": Layout(lambda v: matrix(v).to_sparse_bsr((2, 2)), places),
    "bsc": Layout(lambda v: matrix(v).to_sparse_bsc((2, 2)), places),
    "nested": Layout(nested, joined),
    "jagged": Layout(lambda v: nested(v, torch.jagged), joined),
    "made in inference": Layout(in_inference(torch.clone), torch.clone),
    "csr made in inference": Layout(
        in_inference(lambda v: matrix(v).to_sparse_csr()),
        lambda t: torch.zeros(4, 4, dtype=F64)
        .index_put((AT[0], t.col_indices()), t.values())[AT[0], AT[1]],
    ),
    "conjugate": Layout(lambda v: torch.complex(v, v).conj(), lambda t: t.real.clone()),
    "negative": Layout(lambda v: torch.complex(v, -v).conj().imag, torch.clone),
    "complex half": Layout(
        lambda v: v.to(torch.complex32), lambda t: t.to(torch.complex64).real.to(F64)
    ),
    "quantised": Layout(
        lambda v: torch.quantize_per_tensor(v.float(), 1.0, 0, torch.qint8),
        lambda t: t.dequantize().to(F64),
        floats=False,
    ),
    "quantised by channel": Layout(
        lambda v: by_channel(v, torch.zeros(6).int(), torch.qint8),
        lambda t: t.dequantize().to(F64),
        floats=False,
    ),
    "bits": Layout(
        lambda v: v.to(torch.uint8).view(torch.bits8),
        lambda t: t.view(torch.uint8).to(F64),
        floats=False,
    ),
    **{
        name: cast(getattr(torch, name))
        for name in sorted(vars(torch))
        if name.startswith("float8_")
    },
}  # fmt: skip
if torch.backends.mkldnn.is_available():
    LAYOUTS["mkldnn"] = Layout(lambda v: v.float().to_mkldnn(), lambda t: t.to_dense().to(F64))


def scale(layout: Layout, held: Tensor, factor: float) -> Tensor:
    """Another tensor, of numbers so many times as large."""
    return layout.make(layout.read(held) * factor)


def spoiling(layout: Layout) -> list[float]:
    """Factors by which it becomes other than finite: some narrow kinds hold no infinity."""
    made = {n: layout.read(layout.make(V * n)) for n in (NAN, INF) if layout.floats}
    return [n for n, read in made.items() if not read.isfinite().all()]


def write(held: Tensor, value: Tensor) -> None:
    """In place; torch 2.6 copies between jagged tensors only where they share their offsets."""
    if held.layout is torch.jagged:
        held, value = held.values(), value.values()
    held.copy_(value)
