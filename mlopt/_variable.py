"""`Variable`: named tensors that a problem minimises over; `stop`: an edge without gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ._errors import GraphError

__all__ = ["Source", "Stop", "Variable", "stop"]


class Source:
    """What an objective may read: a `Variable`, or a signal of the graph."""


class Variable(Source):
    """What one level chooses: the parameters of a module, or one tensor, under a name.

    The module or tensor stays the user's own: it is neither copied nor wrapped, and only the
    optimizer of the problem over this variable changes it.

    Args:
        value: a module, or a leaf tensor that requires grad (an `nn.Parameter`, say).
        name: as in the equations; an objective's argument carries it in lower case.

    Raises:
        GraphError: the value is neither, or the name is empty.

    Examples:
        >>> import torch
        >>> W = Variable(torch.nn.Linear(2, 1), "w")
        >>> [tuple(p.shape) for p in W.parameters()]
        [(1, 2), (1,)]
    """

    def __init__(self, value: nn.Module | Tensor, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise GraphError(
                f"Variable({type(value).__name__}, {name!r}): give it a name, a non-empty str."
            )
        if isinstance(value, Tensor):
            if not (value.is_leaf and value.requires_grad):
                raise GraphError(
                    f"Variable {name!r}: value, a tensor of shape {tuple(value.shape)}, is not a "
                    "leaf that requires grad, so it cannot be optimized. Wrap it: "
                    "torch.nn.Parameter(tensor)."
                )
        elif not isinstance(value, nn.Module):
            raise GraphError(
                f"Variable {name!r}: value must be an nn.Module or a Parameter, "
                f"got {type(value).__name__}."
            )
        self._value = value
        self.name = name
        #: Whether it is a module; else it is one tensor.
        self.is_module = isinstance(value, nn.Module)

    @property
    def value(self) -> Any:
        """The module or tensor itself, which stays the same for good.

        Raises:
            GraphError: another one is assigned.
        """
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        raise GraphError(
            f"Variable {self.name!r}: its value cannot be replaced by a {type(value).__name__}, "
            "which no optimizer or engine would know. Write into it (load_state_dict, or copy_ "
            "under no_grad), give the module other parts, or declare a new variable."
        )

    @property
    def tensor(self) -> Tensor:
        """The tensor of a tensor variable; a module has several.

        Raises:
            GraphError: the variable is a module.
        """
        if not isinstance(self.value, Tensor):
            raise GraphError(f"Variable {self.name!r} is a module; use .value or .parameters().")
        return self.value

    def named_parameters(self) -> dict[str, Tensor]:
        """Its parameters by name, each once where tied; a tensor variable has the one name ""."""
        if isinstance(self.value, Tensor):
            return {"": self.value}
        return dict(self.value.named_parameters())

    def parameters(self) -> list[Tensor]:
        """Its parameters, for the constructor of an optimizer."""
        return list(self.named_parameters().values())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module called, outside of any graph: for validation and sampling."""
        if isinstance(self.value, Tensor):
            raise GraphError(f"Variable {self.name!r} is a tensor; only a module can be called.")
        return self.value(*args, **kwargs)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return f"Variable({self.name!r}, {type(self.value).__name__}, {count} numbers)"


@dataclass(frozen=True)
class Stop:
    """A read that no gradient passes; made by `stop`."""

    source: Any


def stop(source: Any) -> Stop:
    """Read a variable or signal as a constant: the value arrives, no gradient passes this edge.

    Use it in `given` to look at one term of a hypergradient alone; the point of evaluation stays
    the same, which `Frozen` does not promise.

    Args:
        source: a `Variable` or a `Signal`.

    Returns:
        The marked read, to be put into `given`.

    Raises:
        GraphError: it is nothing that a problem can read.

    Examples:
        >>> import torch
        >>> A = Variable(torch.nn.Parameter(torch.zeros(3)), "a")
        >>> stop(A).source is A
        True
    """
    if not isinstance(source, Source):
        raise GraphError(
            f"stop(source=<{type(source).__name__}>): source must be a Variable or a Signal."
        )
    return Stop(source)
