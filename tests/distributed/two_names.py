"""Devices that are told apart by names alone, so that a host can show what a GPU would refuse."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: What takes tensors of several devices on a GPU, too; or what `.to` comes before.
_ACROSS = ("copy_", "_to_copy", "_foreach_copy_", "_foreach_norm", "equal")


class TwoNames(TorchDispatchMode):
    """Notes on which of two names for the host tensors are, and refuses to compute on both.

    What a tensor is computed from says where it is; a copy says so itself. What is made of nothing
    may be anywhere, and so may lone numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._at: dict[int, tuple[Any, str]] = {}  # by the memory, which is kept

    def put(self, tensors: Sequence[Tensor], device: str) -> None:
        """Tensors are on a device."""
        for t in tensors:
            storage = t.untyped_storage()
            self._at[storage._cdata] = storage, device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        places = {self._place(t) for t in _tensors((args, kwargs)) if t.dim()} - {""}
        if (
            len(places) > 1
            and not _grouping()
            and name not in _ACROSS
            and not name.startswith("_foreach")
        ):
            raise AssertionError(f"{name} computes on {' and '.join(sorted(places))}")
        if name.startswith("_foreach") and name not in _ACROSS:
            self._check_columns(name, args)
        out = func(*args, **kwargs)
        self._note(name, args, kwargs, places, out)
        return out

    def _check_columns(self, name: str, args: Sequence[Any]) -> None:
        lists = [a for a in args if isinstance(a, list | tuple)]
        for column in zip(*lists, strict=False):
            if len({self._place(t) for t in _tensors(column)} - {""}) > 1:
                raise AssertionError(f"{name} computes on several devices")

    def _note(self, name: str, args: Any, kwargs: Any, places: set[str], out: Any) -> None:
        if name == "copy_":
            return
        if name == "_to_copy" and kwargs.get("device") is not None:
            known = self._place(args[0])  # a draw is moved to where it is wanted
            self.put([out], str(kwargs["device"]) if known else "")
        elif name.startswith("_foreach") and isinstance(out, list | tuple):
            for t, source in zip(out, args[0], strict=True):
                self.put([t], self._place(source))
        else:
            lone = all(t.dim() == 0 for t in _tensors((args, kwargs)))
            if lone and "device" not in kwargs:
                places = {self._place(t) for t in _tensors((args, kwargs))} - {""}
            self.put([*_tensors(out)], "" if "device" in kwargs else min(places, default=""))

    def _place(self, tensor: Tensor) -> str:
        return self._at.get(tensor.untyped_storage()._cdata, (None, ""))[1]


def _grouping() -> bool:
    """Whether the library puts together what says that it is on one device, as both do here."""
    frame: Any = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.endswith("_engine/copies.py"):
        frame = frame.f_back
    return frame is not None


def _tensors(held: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(held) if isinstance(t, Tensor))
