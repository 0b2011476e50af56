"""The interface of optimizers as differentiable functions, for trajectories of several steps."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._tensors import Key, Tensors, clone, like, real
from ._rule import groups
from .numbers import given, resolved

__all__ = ["AbstractTrajectory", "State", "new_step", "quotient", "raw"]

#: What torch keeps in `optimizer.state`, by our key instead of by parameter: tensors by torch's own
#: names, the count `step` among them.
State = dict[Key, dict[str, Tensor]]

_NONE: Mapping[int, Tensor] = {}


class AbstractTrajectory(abc.ABC):
    """One `step()` of a torch optimizer as a pure function, to be applied several times.

        state = begin(optimizer, parameters)
        (w, state) = step(optimizer, parameters, w, g, state),    K times
        write(optimizer, parameters, state)

    `step` is differentiable in the values, the gradients and the state, as often as one likes, and
    exactly: unlike `AbstractUpdate.derivative` it does not hold the second moment constant. The one
    exception is a coordinate that never had a gradient: see `quotient`. The options of the param
    groups are read at every step; where one is a tensor that needs a gradient (a learning rate, a
    momentum), it gets one. Hooks of the optimizer are not called.

    Do not use it for the solution of one step: `AbstractUpdate` needs no graph.
    """

    def begin(self, optimizer: Any, parameters: Tensors) -> State:
        """The optimizer's present state.

        The tensors are the optimizer's own, detached. Nothing here writes into them; the real
        `optimizer.step()` does, and what was computed from them cannot be differentiated after it.

        Args:
            optimizer: the user's optimizer.
            parameters: its parameters by key.

        Returns:
            The state by key of `parameters`; empty where the optimizer has none yet.
        """
        return {
            key: {
                name: tensor.detach()
                for name, tensor in optimizer.state.get(parameter, {}).items()
                if isinstance(tensor, Tensor)
            }
            for key, parameter in parameters.items()
        }

    def step(
        self,
        optimizer: Any,
        parameters: Tensors,
        values: Tensors,
        gradients: Tensors,
        state: State,
        numbers: Mapping[int, Tensor] = _NONE,
    ) -> tuple[Tensors, State]:
        """What one `step()` would make of these values and this state; no argument is changed.

        A key that stays keeps its very tensor, which is then in the graph of earlier steps too:
        take the next gradient by an alias (`value.view_as(value)`), or it sums over these steps.

        Args:
            optimizer: the user's optimizer; its options are read, not its state.
            parameters: its parameters by key; they tell which param group a key is in.
            values: by key.
            gradients: by key; a key without one keeps its value and its state, as does one whose
                parameter the optimizer does not hold.
            state: by key; a key that it lacks, or that is empty, starts as torch starts it.
            numbers: what stands for options that are tensors of variables, by their identity.

        Returns:
            The new values and the new state, by the keys of `values` and of `state`.
        """
        moved, states = dict(values), dict(state)
        for options, keys, members in groups(optimizer, parameters, gradients):
            group = resolved(options, numbers)
            for key, parameter in zip(keys, members, strict=True):
                value, gradient = values[key], gradients[key]
                held = states.get(key) or self.fresh(optimizer, group, parameter)
                if value.is_complex():
                    held = {name: real(tensor) for name, tensor in held.items()}
                after, kept = self.update(group, real(value), real(gradient), held)
                if value.is_complex():
                    kept = {n: like(t, value) if t.dim() else t for n, t in kept.items()}
                # a 0-dimensional value would take the precision of a learning rate in a tensor
                moved[key], states[key] = like(after, value), kept
        return moved, states

    def write(self, optimizer: Any, parameters: Tensors, state: State) -> None:
        """Put copies of a state into the optimizer, whose next `step()` continues from there.

        The optimizer's former tensors are replaced, not written into: a graph that was built from
        `begin` stays good. Parameters are not touched.

        Args:
            optimizer: the user's optimizer.
            parameters: its parameters by key.
            state: by some of these keys. What is no tensor stays as it is there.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        keys = [key for key in state if id(parameters[key]) in held]
        copies = iter(clone([t.detach() for key in keys for t in state[key].values()]))
        for key in keys:
            parameter = parameters[key]
            before = optimizer.state.get(parameter, {})
            after = {name: held for name, held in before.items() if not isinstance(held, Tensor)}
            after.update({name: next(copies) for name in state[key]})
            if after:
                optimizer.state[parameter] = after
            else:
                optimizer.state.pop(parameter, None)

    @abc.abstractmethod
    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """The state that torch makes for a parameter at its first gradient.

        Args:
            optimizer: the user's optimizer.
            group: the options of the parameter's group.
            parameter: the parameter.

        Returns:
            Tensors by torch's names.
        """

    @abc.abstractmethod
    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One update of one parameter, without any write in place; of complex ones by pairs.

        Args:
            group: the options of the parameter's group.
            value: the parameter's value.
            gradient: of the same shape.
            state: by torch's names; not empty, but for an optimizer whose fresh state is.

        Returns:
            The new value and the new state.
        """


def quotient(numerator: Tensor, square: Tensor, eps: Any) -> Tensor:
    """Take numerator / (sqrt(square) + eps), as a constant where the square is zero.

    Where every gradient so far was zero (a dead unit) the root has an infinite derivative and the
    quotient one of 1/eps, 1e8 by torch's default: the derivative is defined as zero there, as in
    `AdamUpdate`. Zero means below the smallest normal number, where gradients have underflowed and
    the root's second derivative overflows.

    Two `where`, one before the root and one after: a derivative of any order then meets no
    infinity, which the mask would turn into 0 * inf.

    Args:
        numerator: of any shape.
        square: of the same shape.
        eps: added to the root.

    Returns:
        The quotient, of the same shape.
    """
    alive = square > torch.finfo(square.dtype).tiny
    exact = numerator / (torch.where(alive, square, 1.0).sqrt() + eps)
    constant = numerator.detach() / (square.detach().sqrt() + eps)
    return torch.where(alive, exact, constant)


def raw(group: dict[str, Any], value: Tensor, gradient: Tensor) -> Tensor:
    """The gradient after `maximize` and the L2 penalty: what torch feeds to its averages."""
    step = -gradient if group["maximize"] else gradient
    return step + group["weight_decay"] * value if given(group["weight_decay"]) else step


def new_step(group: dict[str, Any], parameter: Tensor) -> Tensor:
    """The count of an optimizer that has made no step, of torch's dtype and on torch's device."""
    fused = bool(group.get("fused"))
    double = torch.get_default_dtype() is torch.float64 and not fused
    return torch.zeros(
        (),
        dtype=torch.float64 if double else torch.float32,
        device=parameter.device if fused or group.get("capturable") else "cpu",
    )
