"""Where a function leaves autograd, or has a backward of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .autograd_graph import operations

__all__ = ["HOOK", "Ways", "bent_operations", "custom_functions"]

HOOK = "register_hook()"  # by which a gradient is changed

_OUT = {
    Tensor.detach: "detach()",
    Tensor.detach_: "detach_()",
    torch.detach: "detach()",
    Tensor.data.__get__: ".data",  # type: ignore[attr-defined]
    Tensor.item: "item()",
    Tensor.tolist: "tolist()",
    Tensor.numpy: "numpy()",
    Tensor.__float__: "float()",
    Tensor.__array__: "NumPy",
    Tensor.register_hook: HOOK,
}
_DETACHING = frozenset({torch.ops.aten.detach.default, torch.ops.aten.detach_.default})
#: Operations of torch's own whose backward is none of theirs, or a user's.
_BENT = ("FakeQuantize", "FusedMovingAvgObsFakeQuant", "BackwardHookFunction")
_TORCH = os.path.dirname(torch.__file__)
_CORE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_")


class Ways(TorchFunctionMode):
    """Notes how tensors that require a gradient go on without one, and in which lines.

    Attributes:
        found: the ways, in words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self._inside = 0  # of calls by Python, one in another

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        how = _OUT.get(func) or ("" if torch.is_grad_enabled() else "no_grad")
        graded = bool(how) and any(_graded((args, kwargs)))  # before: it may be in place
        self._inside += 1
        try:
            out = func(*args, **(kwargs or {}))
        finally:
            self._inside -= 1
        if func is torch.autograd.grad and not any(_graded(out)):
            how, graded = "autograd.grad() without create_graph", any(_graded((args, kwargs)))
        elif not how and _is_cut(func, out) and any(_graded((args, kwargs))):
            how, graded = f"{func.__name__}()", True
        self._note(how if graded else "")
        return out

    def note_script(self, func: Any, args: Sequence[Any]) -> None:
        """Note what a script detaches, which calls no function of torch by Python.

        Args:
            func: of torch, as it is dispatched.
            args: of it.
        """
        if not self._inside and func in _DETACHING and any(_graded(args[:1])):
            self._note("detach()")  # operations of torch detach inside, too

    def _note(self, how: str) -> None:
        if how and (line := _line()):
            self.found[f"{how} in {line}"] = None


def _is_cut(func: Any, out: Any) -> bool:
    """Whether what an operation gives has no gradient though it might, or is rounded."""
    # New arrays are not meant, nor truths and places of numbers, which change by jumps alone.
    name = getattr(func, "__name__", "")
    if not isinstance(out, Tensor) or not torch.is_grad_enabled():
        return False
    if out.requires_grad:
        return name in _ROUNDING
    new = not name or name.endswith("_like") or name.startswith(("new_", "__get__"))
    return not (new or out.dtype is torch.bool or name.startswith(_PLACES))


_ROUNDING = frozenset({"round", "round_", "floor", "floor_", "ceil", "ceil_", "trunc", "trunc_"})
_PLACES = ("arg", "nonzero", "count_nonzero", "multinomial", "size", "stride", "data_ptr")


def _graded(held: Any) -> Iterator[bool]:
    """Of the tensors in containers, whether they require a gradient; under vmap none says so."""
    found = (t for t in tree_leaves(held) if isinstance(t, Tensor))
    return (t.requires_grad or _is_batched(t) for t in found)


_is_batched: Callable[[Tensor], bool] = getattr(
    getattr(torch._C, "_functorch", None), "is_batchedtensor", lambda tensor: False
)


def _line() -> str:
    """The place in the user's code that is run; empty in the engine's own, or in a `Function`."""
    frame: Any = sys._getframe(1)
    place = ""
    while frame is not None:
        file = frame.f_code.co_filename
        first = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
        if isinstance(first, torch.autograd.function.FunctionCtx):
            return ""
        if frame.f_code.co_name not in _WATCHING:
            if file.startswith(_CORE):
                break
            if not place and not file.startswith(_TORCH):
                place = f"{os.path.basename(file)}, line {frame.f_lineno}"
        frame = frame.f_back
    return place


#: Between the user's code and this there are modes, and what they call.
_WATCHING = frozenset({"__torch_function__", "__torch_dispatch__", "note_script", "_note"})


def custom_functions(result: Tensor) -> list[str]:
    """The names of the functions with a backward of their own that a value was computed by.

    Args:
        result: the value.

    Returns:
        Those that are not torch's own, each once.
    """
    return list(dict.fromkeys(name for node in operations(result) if (name := _custom(node))))


def bent_operations(result: Tensor) -> list[str]:
    """The names of operations whose backward may be another than that of their values.

    Args:
        result: a value that was computed by them.

    Returns:
        The custom functions, and torch's own that quantise or call hooks; each once.
    """
    found = {_custom(node) or _bent(node) for node in operations(result)}
    return sorted(found - {""})


def _custom(node: Any) -> str:
    """The name of the function that a node of autograd is of, if it is none of torch's own."""
    kind = getattr(node, "_forward_cls", None)
    return "" if kind is None or kind.__module__.startswith("torch.") else kind.__name__


def _bent(node: Any) -> str:
    name = node.name()
    return name if name.startswith(_BENT) else ""
