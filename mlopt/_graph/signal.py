"""`signal`: a named value that travels from one level to those above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from .._errors import GraphError
from .node import Node, Precision

__all__ = ["Signal", "heard", "join", "signal", "split"]


class Signal(Node):
    """A function of variables and other signals, computed once a step for all who read it.

    Made by the decorator `signal`. The plain function stays at `.fn`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        given: Sequence[Any],
        data: Any = None,
        state: nn.Module | None = None,
        precision: Precision | None = None,
        split: int | bool | Callable[[Any, int], Sequence[Any]] | None = None,
        count: Callable[[Any], Any] | None = None,
        combine: Literal["sum", "mean"] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(fn, name, (), given, data, precision, split, count, combine)
        if state is not None and not isinstance(state, nn.Module):
            raise GraphError(
                f"{self.name}: state= takes a module whose buffers are the memory, "
                f"got {type(state).__name__}."
            )
        self.state = state


def signal(
    *,
    given: Sequence[Any],
    data: Any = None,
    state: nn.Module | None = None,
    precision: Precision | None = None,
    split: int | bool | Callable[[Any, int], Sequence[Any]] | None = None,
    count: Callable[[Any], Any] | None = None,
    combine: Literal["sum", "mean"] | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Signal]:
    """Declare a signal: class losses, generated images, pseudo-labels, a learned weighting.

        s = f(given..., batch)

    It is evaluated once a step at the solutions of what it reads; cotangents of all its readers are
    summed and pulled back once. Perturbed evaluations of its readers never run it again.

    Args:
        given: the variables and signals it reads, in the order of the arguments; a list of them
            arrives as a list.
        data: a loader or `Stream`; its batch is the last argument. A tuple of them gives a tuple.
        state: a module whose buffers are the signal's memory (a running mean, say): they move on
            once a step, with the step's other commits.
        precision: what it is computed in, as of `Engine`; "float32" where the engine has another.
        split: where `Engine(parts=m)` cuts its batch, as of `problem`.
        count: what a part of its batch counts in a mean over parts, as of `problem`.
        combine: how the values at parts of a batch come together: "sum" or "mean". By default the
            value has a row for each sample, which stays with its part of the batch in whatever
            reads it. A mean per class is a sum and a count, which a second signal divides.
        name: label; by default the function's name.

    Returns:
        A decorator that makes the `Signal`.

    Raises:
        GraphError: the function's arguments do not match what it reads, or an option is not what
            it must be.

    Examples:
        >>> import torch, mlopt
        >>> W = mlopt.Variable(torch.nn.Parameter(torch.ones(2)), "w")
        >>> @mlopt.signal(given=[W])
        ... def size(w):
        ...     return (w**2).sum()
        >>> size
        Signal('size')
    """
    return lambda fn: Signal(
        fn,
        given=given,
        data=data,
        state=state,
        precision=precision,
        split=split,
        count=count,
        combine=combine,
        name=name,
    )


def split(value: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a signal's value by part: one, or a flat tuple, list or dict of them."""
    if isinstance(value, Tensor):
        return {"": value}
    parts: dict[str, Any] = {}
    if isinstance(value, tuple | list):
        parts = {str(i): v for i, v in enumerate(value)}
    elif isinstance(value, dict):
        parts = {str(k): v for k, v in value.items()}
    if not parts or not all(isinstance(v, Tensor) for v in parts.values()):
        got = {k: type(v).__name__ for k, v in parts.items()} or type(value).__name__
        raise GraphError(
            f"signal {name} returned {got}; return a tensor, or a flat tuple or dict of tensors."
        )
    return parts


def heard(value: Any) -> list[Tensor]:
    """The tensors of a signal's value."""
    if isinstance(value, Tensor):
        return [value]
    return list(value.values() if isinstance(value, dict) else value)


def join(value: Any, parts: dict[str, Tensor]) -> Any:
    """The inverse of `split`: the shape of `value` with these tensors."""
    if isinstance(value, Tensor):
        return parts[""]
    if isinstance(value, dict):
        return {k: parts[str(k)] for k in value}
    tensors = [parts[str(i)] for i in range(len(value))]
    # a named tuple takes its fields one by one
    return type(value)(*tensors) if hasattr(value, "_fields") else type(value)(tensors)
