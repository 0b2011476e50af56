"""`watched`: an evaluation of which it is seen what the function does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from .._errors import GraphError
from .._graph.node import Node
from .point import Evaluator
from .reads import Touches, eager
from .versions import written_in_place
from .ways import Ways

__all__ = ["Seen", "watched"]


class Seen(NamedTuple):
    """What an evaluation gave, and what was seen of the function.

    Attributes:
        result: what it returned.
        written: for each variable with buffers those that it wrote.
        touched: which of the tensors in question it has touched.
        ways: those in which it leaves autograd, in words.
        python: whether Python may be called in its backward, other than by a `Function`.
    """

    result: Any
    written: dict[Any, list[Tensor]]
    touched: set[Any]
    ways: list[str]
    python: bool


def watched(
    evaluator: Evaluator,
    node: Node,
    evaluate: Callable[[], tuple[Any, dict[Any, list[Tensor]]]],
    tensors: dict[int, Any],
    also: AbstractContextManager[Any] | None = None,
    memory: Mapping[int, Any] | None = None,
) -> Seen:
    """Evaluate a node; its function alone is watched, which takes longer than to call it.

    Args:
        evaluator: of the graph; it learns in which low precision the function computes.
        node: a problem or signal.
        evaluate: evaluates it by that evaluator.
        tensors: those in question, by identity, and what is noted of each.
        also: is entered around the function, too.
        memory: what is noted of tensors that begin at these addresses.

    Returns:
        What was seen.

    Raises:
        GraphError: the function writes what it may only read, or asks a module for a parameter
            where another value stands.
        RuntimeError: the function's own.
        AttributeError: likewise.
    """
    ways, choose = Ways(), evaluator.choose
    touches = Touches(tensors, note=ways.note_script, memory=memory or {})

    def function(*arguments: Any) -> Any:
        with eager(), also or nullcontext(), touches, ways:
            return node.fn(*arguments)

    evaluator.choose = lambda *_: function
    try:
        result, written = evaluate()
    except RuntimeError as error:  # torch has no type of its own for it
        if "in-place" in str(error) and "leaf" in str(error):
            raise GraphError(written_in_place(node, evaluator.bindings)) from error
        raise
    except AttributeError as error:
        if "is not an nn.Parameter" not in str(error):
            raise
        raise GraphError(
            f"{node.name}: {error}. In a function, modules hold the values that they are evaluated "
            "at, which are tensors: get_parameter() does not take them. Write the attribute: "
            "w[0].weight instead of w.get_parameter('0.weight')."
        ) from error
    finally:
        evaluator.choose = choose
    evaluator.narrow.pop(node, None)
    if touches.narrow is not None:
        evaluator.narrow[node] = touches.narrow
    return Seen(result, written, touches.found, list(ways.found), touches.python)
