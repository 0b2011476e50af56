"""What a function touches, against what it was given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.obstacles import obstacle
from .._graph.problem import Problem
from .._variable import Variable

__all__ = ["Touches", "begin", "check_frozen", "check_touched", "eager", "tell_frozen"]

_NARROW = (torch.float16, torch.bfloat16)
#: What most lists are of, such as strides: to walk through them would take longest.
_WORDS = frozenset({int, bool, float, type(None)})
#: (whether to tell while tracing) -> the hooks for saved tensors in effect; not in every torch.
_top_hooks: Any = getattr(
    getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None
)
#: What most arguments are.
_LONE = _WORDS | {Tensor, nn.Parameter, torch.dtype, torch.device}


_NOWHERE: Mapping[int, Any] = {}


def begin(tensor: Tensor) -> int:
    """The address where a tensor's numbers begin; zero for one that has none."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    with torch._C.DisableTorchFunction():
        try:
            return tensor.data_ptr()
        except RuntimeError:  # of a kind without memory
            return 0


class Touches(TorchDispatchMode):
    """Notes which of some tensors any operation takes as an input, even without gradient.

    Args:
        watched: what is noted, by the identity of the tensor.
        backward: whether it is a backward pass that is watched.
        note: is told of each operation, and its arguments.
        memory: what is noted of a tensor that begins where this address is.

    Attributes:
        found: what has been touched so far.
        narrow: a dtype of low precision that something was computed in, if any.
        python: whether Python may be called in the backward of anything that was computed, other
            than by a `Function`: by hooks that keep tensors, a class of tensors, another mode.
    """

    def __init__(
        self,
        watched: dict[int, Any],
        backward: bool = False,
        note: Callable[[Any, Sequence[Any]], None] | None = None,
        memory: Mapping[int, Any] = _NOWHERE,
    ) -> None:
        super().__init__()
        self._memory = memory
        self.watched, self._backward, self._note = watched, backward, note
        self.python = _top_hooks is None or torch._C._len_torch_dispatch_stack() > 0
        self.found: set[Any] = set()
        self.narrow: torch.dtype | None = None
        self._out = _Out(watched, self.found)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would put its compiler's wrapper around each call, and nothing is compiled."""
        return False

    def __enter__(self) -> Touches:
        super().__enter__()
        self._out.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._out.__exit__(*exception)
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        watched = self.watched
        for argument in (*args, *kwargs.values()) if kwargs else args:
            if id(argument) in watched:
                self.found.add(watched[id(argument)])
            elif type(argument) is Tensor:
                if self._memory and (found := self._memory.get(begin(argument))) is not None:
                    self.found.add(found)
            elif type(argument) not in _LONE and (
                isinstance(argument, dict)
                or (
                    isinstance(argument, list | tuple)
                    and not _WORDS.issuperset(map(type, argument))
                )
            ):
                self.found.update(watched[id(x)] for x in tree_leaves(argument) if id(x) in watched)
        if self._note is not None:
            self._note(func, args)
        # Modes of functions have seen what Python has called, but for a script without gradients.
        if getattr(func, "namespace", "") == "aten" and (self._backward or torch.is_grad_enabled()):
            with torch._C.DisableTorchFunction():
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dtype in _NARROW:
            self.narrow = out.dtype
        if not self.python:
            self.python = not _LONE.issuperset(types) or _top_hooks(True) is not None
        return out


class _Out(TorchFunctionMode):
    """Notes which tensors are handed to Python or other libraries, by no operation of torch."""

    def __init__(self, watched: Mapping[int, Any], found: set[Any]) -> None:
        super().__init__()
        self.watched, self.found = watched, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in _HANDED and args and id(args[0]) in self.watched:
            self.found.add(self.watched[id(args[0])])
        return func(*args, **(kwargs or {}))


_HANDED = {
    Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr,
    Tensor.untyped_storage,
}  # fmt: skip


def check_touched(
    graph: Graph, node: Node, touched: set[tuple[Any, bool]], free: set[Variable]
) -> None:
    """Compare what a function has touched to what it declares.

    Args:
        graph: the graph.
        node: its node.
        touched: sources, and whether as an argument or past it.
        free: variables that it need not touch.

    Raises:
        GraphError: they differ.
    """
    reads = [read.source for argument in node.arguments for read in argument.reads]
    for source, declared in touched:
        if not declared and source in reads:
            raise GraphError(
                f"{node.name} uses {source.name}'s own tensor past its argument; use the argument, "
                "whose value the engine chooses."
            )
        if not declared:
            raise GraphError(
                f"{node.name} reads {source.name} without being given it. Add {source.name} to "
                "given= (or stop() of it), and use the argument."
            )
    for source in reads:
        if (source, True) not in touched and source not in free:
            if isinstance(node, Problem) and source in node.over:
                way = obstacle(graph, node, source)
                raise GraphError(
                    f"{node.name} never uses {source.name}, which it is minimised over"
                    + (f". {way}. If that is not meant, use the argument." if way else
                       ": use the argument.")
                )  # fmt: skip
            raise GraphError(
                f"{node.name} is given {source.name} and never uses it. Remove it from given=, or "
                "use the argument: in a branch that is taken later, as after a warm-up, with "
                "weight zero until then (0 * ...), so that it is declared when it counts."
            )


def check_frozen(graph: Graph, node: Node, frozen: Iterable[Any]) -> None:
    """Refuse a function that freezes what a gradient is to be passed to.

    Args:
        graph: the graph.
        node: its node.
        frozen: the sources of tensors that required a gradient before it was called, and not after.

    Raises:
        GraphError: a gradient of one of them is taken.
    """
    over = node.over if isinstance(node, Problem) else ()
    passed = {s for sweep in graph.sweeps.values() for s in sweep.edges.get(node, ())}
    for source in frozen:
        if source in over:
            raise GraphError(
                f"{node.name} freezes {source.name}, which it is minimised over: requires_grad is "
                "False after it. Freeze parameters that are not trained before the engine is made."
            )
        if source in passed:
            raise GraphError(
                f"{node.name} freezes {source.name} (requires_grad is False after it), to which it "
                f"passes a gradient. Where none is meant, give it stop({source.name}); else leave "
                "requires_grad alone."
            )


def tell_frozen(node: Node, values: Mapping[Variable, Mapping[str, Tensor]], error: Any) -> None:
    """Refuse a function that freezes what it reads and thaws it, where that has been computed.

    Args:
        node: whose function has raised.
        values: what it read.
        error: what it has raised; torch has no type of its own for it.

    Raises:
        GraphError: it is that.
    """
    if "change requires_grad flags of leaf" not in str(error):
        return
    computed = [v.name for v, held in values.items() if not all(t.is_leaf for t in held.values())]
    if computed:
        named = " and ".join(computed)
        raise GraphError(
            f"{node.name} freezes what it reads, by requires_grad, and {named} is here a solution "
            "that depends on what is above: a gradient passes through it. Where none is meant, "
            f"give it stop({computed[0]}), or use p.detach(); else leave requires_grad alone."
        ) from error


def eager() -> AbstractContextManager[Any]:
    """Without compilation: some versions of torch never compile again what ran under a watch."""
    if "torch._dynamo" not in sys.modules:  # its import takes seconds, and nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
