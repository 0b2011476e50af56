"""The numbers of an optimizer (learning rate, momentum, weight decay) that are tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._tensors import Key

__all__ = ["Number", "constants", "given", "learned", "numbers_in", "resolved"]

#: What options are made of nearly always; lists are of parameters.
_PLAIN = frozenset({float, int, bool, type(None), list})


@dataclass(frozen=True)
class Number:
    """A number of an optimizer that is a variable's own tensor: its problem reads it there.

    Attributes:
        option: its name in the param group.
        key: of the variable's tensor.
        stopped: whether no gradient passes.
    """

    option: str
    key: Key
    stopped: bool


def numbers_in(groups: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among the options of param groups, by the options' names."""
    for group in groups:
        for name, option in group.items():
            for number in option if type(option) is tuple else (option,):
                if isinstance(number, Tensor):
                    yield name, number


def learned(groups: Iterable[dict[str, Any]]) -> list[Tensor]:
    """Those of them that require grad: it is asked before each step, and takes little."""
    odd = [g for g in groups if not _PLAIN.issuperset(map(type, g.values()))]
    return [t for _, t in numbers_in(odd) if t.requires_grad] if odd else []


def resolved(group: dict[str, Any], numbers: Mapping[int, Tensor]) -> dict[str, Any]:
    """A param group as an evaluation sees it.

    Args:
        group: the optimizer's.
        numbers: what stands for a number that is a variable's tensor, by that tensor's identity.

    Returns:
        Its options; those that are tensors as copies without dimensions, or as numbers.
    """

    def seen(option: Any) -> Any:
        if not isinstance(option, Tensor):
            return tuple(map(seen, option)) if type(option) is tuple else option
        number = numbers.get(id(option), option)
        if number is option and not option.requires_grad:
            number = _fixed(option)
        # torch's schedulers write into a learning rate that is a tensor; a graph needs it as it was
        return number.reshape(()).clone() if isinstance(number, Tensor) else number

    return {name: seen(option) for name, option in group.items()}


def constants(group: dict[str, Any]) -> dict[str, Any]:
    """A param group as constants: the very group, where none of its options is a tensor."""
    if _PLAIN.issuperset(map(type, group.values())) or not any(True for _ in numbers_in([group])):
        return group

    def fixed(option: Any) -> Any:
        return tuple(map(fixed, option)) if type(option) is tuple else _fixed(option)

    return {name: fixed(option) for name, option in group.items()}


def _fixed(option: Any) -> Any:
    """An option as a constant: a number, or a tensor without dimensions where that is far away."""
    if not isinstance(option, Tensor):
        return option
    option = option.detach()
    return option.item() if option.device.type == "cpu" else option.reshape(())


def given(option: Any) -> bool:
    """Whether an option is in use; one in a tensor is, whose value would have to be waited for.

    A number that is learned has its derivative at zero, too.

    Args:
        option: a number or a tensor.

    Returns:
        Whether it is.
    """
    return isinstance(option, Tensor) or bool(option)
