"""A walk through the graph that autograd keeps, and where it ends without a word."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["PythonRuns", "has_dead_end", "has_reentrant", "leaves", "operations", "runs_python"]


def operations(results: Any, until: Any = ()) -> Iterator[Any]:
    """The operations that tensors were computed by, each once, without recursion.

    Args:
        results: tensors, in containers.
        until: tensors whose own operations, and those before, are left out.

    Yields:
        Autograd's nodes.
    """
    seen: set[Any] = {t.grad_fn for t in until}
    waiting = [t.grad_fn for t in tree_leaves(results) if isinstance(t, Tensor)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def leaves(results: Any) -> Iterator[Tensor]:
    """The tensors that gradients of some results would arrive at, in whichever thread they went in.

    Args:
        results: tensors, in containers.

    Yields:
        Tensors that require grad and were not computed; they may be among the results.
    """
    yield from (t for t in tree_leaves(results) if isinstance(t, Tensor) and t.is_leaf)
    for node in operations(results):
        if (tensor := getattr(node, "variable", None)) is not None:
            yield tensor


def has_reentrant(tensors: Any) -> bool:
    """Whether a graph goes through a reentrant checkpoint.

    Args:
        tensors: whose graph it is.

    Returns:
        Whether it does.
    """
    return any(node.name() == "CheckpointFunctionBackward" for node in operations(tensors))


def runs_python(tensors: Any) -> bool:
    """Whether Python is called when a graph is gone back through: by a `Function`, of anybody's.

    Args:
        tensors: whose graph it is.

    Returns:
        Whether there is one; hooks are not seen.
    """
    return any(hasattr(node, "_forward_cls") for node in operations(tensors))


class PythonRuns:
    """Notes whether a function of Python is called inside of a backward pass in a block.

    It is noticed in the thread of the block, which goes through what is on the host; and not where
    somebody else has a profiler there.

    Attributes:
        noted: whether one was.
    """

    def __init__(self) -> None:
        self.noted = False

    def __enter__(self) -> PythonRuns:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        del frame, argument
        self.noted = self.noted or (event == "call" and torch._C._current_graph_task_id() != -1)


def has_dead_end(tensors: Any) -> bool:
    """Whether a graph holds torch's mark for what cannot be differentiated again.

    Going back to other tensors past such a mark raises nothing: they get no gradient at all.

    Args:
        tensors: whose graph it is.

    Returns:
        Whether there is one.
    """
    return any(node.name().endswith("Error") for node in operations(tensors))
