"""`Unrolled`: several steps of the real optimizer, differentiated through every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._arguments import check_fields, from_one
from .._errors import GraphError
from .._tensors import Key, Tensors, continuous
from .._variable import Variable
from ..optim import State, rule_of
from .derivatives import derivatives
from .interface import AbstractHypergradient, Cost, Response, gradient

__all__ = ["Unrolled"]


@dataclass(frozen=True)
class Unrolled(AbstractHypergradient):
    """The solution after several steps of the problem's own optimizer, all of which are committed.

        s(r) = w_K,    (w_k, state_k) = update(w_(k-1), dF_k/dw(w_(k-1); r), state_(k-1))
        pullback to r:  reverse mode through the K steps

    F_k is the objective on the k-th inner batch; the signals that the problem reads are made from
    that batch as well. The steps start at the standing value, with the optimizer's present state,
    both constants of the step; with `init` they start at another variable, to which the gradient
    flows (the meta-learned initialisation of MAML), and from a fresh state. What the optimizer does
    not hold, and what is frozen, is at that variable in every step, too: its gradient passes
    straight on (the body of ANIL). Exact; a coordinate whose second moment in Adam and its like is
    zero passes no gradient.

    Stored, the memory is K times that of a step; recomputed, it grows with the square root of K,
    for one more evaluation of every step. Do not use it for a problem whose optimum is reached and
    unique: `Implicit` gives its gradient without the way there.

    Numbers of the optimizer that are variables (`SGD(W.parameters(), lr=H.tensor)`, with H among
    what the problem is given) are differentiated as arguments are.

    Args:
        steps: K.
        truncate: differentiate through the last so many steps only, and take those before as
            constants: biased towards what acts fast.
        init: the variable from which the steps start, with the names, shapes and types of the
            problem's own.
        same_batch: all steps on the step's one batch, as in meta-learning, where it is a task's
            support set; else each inner step takes the next batch of every stream.
        recompute: keep the start of about sqrt(K) segments only, and compute each again on the way
            back.

    Raises:
        GraphError: an option is not what it must be.

    Reference: Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter Optimization through
    Reversible Learning", ICML 2015; Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML
    2017; Shaban et al., "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019; Chen
    et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    steps: int
    truncate: int | None = None
    init: Variable | None = None
    same_batch: bool = False
    recompute: bool = False

    traced = True
    looks_ahead = True
    learns = True

    def __post_init__(self) -> None:
        check_fields(self, GraphError, steps=from_one, truncate=from_one)

    @property
    def moves(self) -> bool:
        return True

    @property
    def responds(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        again = self.steps if self.recompute else 0
        return Cost(evaluations=again, backwards=2 * again + 1)

    @property
    def reads(self) -> tuple[Variable, ...]:  # type: ignore[override]
        return () if self.init is None else (self.init,)

    def check(self, name: str, optimizer: Any) -> None:
        if optimizer is None:
            raise GraphError(
                f"{name}: Unrolled makes {self.steps} steps of the problem's optimizer, and it has "
                "none. Give it one."
            )
        rule_of(optimizer, name)

    def solution(self, response: Response) -> Tensors:
        return self.trace(response)[0]

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        with torch.enable_grad():
            value = self.solution(response)
            pairs = [(value[k], c) for k, c in cotangent.items() if value[k].requires_grad]
        return derivatives(
            [v for v, _ in pairs],
            {k: response.arguments[k] for k in wanted},
            [c for _, c in pairs],
            create_graph=torch.is_grad_enabled(),
        )

    def trace(self, response: Response) -> tuple[Tensors, State]:
        """The value after the last step, with a graph under grad mode, and the optimizer's state.

        Args:
            response: the problem at this point.

        Returns:
            Tensors by key, and the state by key.
        """
        value, state = self._start(response)
        constant = self.steps - self.truncate if self.truncate else 0
        if constant > 0:
            with torch.no_grad():
                value, state = self._run(response, value, state, 0, constant)
        first = max(constant, 0)
        if not (self.recompute and torch.is_grad_enabled()):
            value, state = self._run(response, value, state, first, self.steps)
            return {**self._resting(response, response.arguments), **value}, state
        length = math.isqrt(self.steps - first - 1) + 1
        for begin in range(first, self.steps, length):
            end = min(begin + length, self.steps)
            value, state = self._segment(response, value, state, begin, end)
        return {**self._resting(response, response.arguments), **value}, state

    def _start(self, response: Response) -> tuple[Tensors, State]:
        rule = rule_of(response.optimizer, response.name)
        if self.init is None:
            state = rule.begin(response.optimizer, response.parameters)
            return dict(response.value), {k: s for k, s in state.items() if k in response.value}
        for key, own in (*response.value.items(), *response.resting.items()):
            given = response.arguments.get((self.init, key[1]))
            if given is None or (given.shape, given.dtype) != (own.shape, own.dtype):
                there = "nothing" if given is None else f"{given.dtype} {tuple(given.shape)}"
                raise GraphError(
                    f"{response.name}: Unrolled(init={self.init.name}) starts from another "
                    f"variable, which has {there} where {key[0].name} has {key[1]!r}, {own.dtype} "
                    f"{tuple(own.shape)}. Give it a variable of the same names, shapes and types."
                )
        return {k: response.arguments[self.init, k[1]] for k in response.value}, {}

    def _resting(self, response: Response, arguments: Tensors) -> Tensors:
        """What no step moves, which stands where the steps start."""
        if self.init is None:
            return {}
        return {key: arguments[self.init, key[1]] for key in response.resting}

    def _run(
        self,
        response: Response,
        value: Tensors,
        state: State,
        begin: int,
        end: int,
        arguments: Tensors | None = None,
    ) -> tuple[Tensors, State]:
        """The steps from one index to another; with a graph under grad mode."""
        rule = rule_of(response.optimizer, response.name)
        optimizer, parameters = response.optimizer, response.parameters
        numbers = response.numbers_at(arguments)
        graph = torch.is_grad_enabled()
        resting = self._resting(response, arguments or response.arguments)
        for k in range(begin, end):
            with torch.enable_grad():
                # aliases: a parameter without gradient keeps its very tensor over the steps
                own = {
                    key: t.view_as(t) if graph and t.requires_grad else t.detach().requires_grad_()
                    for key, t in value.items()
                }
                loss = response.objective({**resting, **own}, k, arguments)
                found = gradient(loss, own, response.name, create_graph=graph)
            value, state = rule.step(optimizer, parameters, value, found, state, numbers)
        return value, state

    def _segment(
        self, response: Response, value: Tensors, state: State, begin: int, end: int
    ) -> tuple[Tensors, State]:
        """The same steps, without their graph until they are gone back through."""
        flat, rebuild = _flatten(value, state)
        layout: list[Callable[[Sequence[Tensor]], tuple[Tensors, State]]] = []

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            given = dict(zip(response.arguments, tensors[len(flat) :], strict=True))
            out, after = _flatten(*self._run(response, *rebuild(tensors), begin, end, given))
            layout.append(after)
            return out

        outputs = _Segment.apply(run, *flat, *response.arguments.values())
        return layout[0](outputs)


def _flatten(
    value: Tensors, state: State
) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], tuple[Tensors, State]]]:
    """A value and a state as one list of tensors, and the way back."""
    names = [(key, name) for key, held in state.items() for name in held]
    keys, empty = list(value), {key: {} for key in state}

    def rebuild(tensors: Sequence[Tensor]) -> tuple[Tensors, State]:
        rest: State = {key: dict(held) for key, held in empty.items()}
        count = len(keys)
        for (key, name), tensor in zip(names, tensors[count : count + len(names)], strict=True):
            rest[key][name] = tensor
        return dict(zip(keys, tensors[: len(keys)], strict=True)), rest

    return [*value.values(), *(state[key][name] for key, name in names)], rebuild


class _Segment(torch.autograd.Function):
    """Some steps, of which only the start is kept; the way back computes them again."""

    @staticmethod
    def forward(ctx: Any, run: Any, *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        # a tensor that the steps pass on unchanged would be an input returned as an output
        given = {id(t) for t in tensors}
        return tuple(t.clone() if id(t) in given else t for t in run(tensors))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        again = torch.is_grad_enabled()
        # aliases: what the steps start from depends on the arguments, by the steps before
        inputs = [
            t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_(continuous(t))
            for t in ctx.saved_tensors
        ]
        with torch.enable_grad():
            outputs = ctx.run(inputs)
            pairs = [
                (o, c)
                for o, c in zip(outputs, cotangents, strict=True)
                if c is not None and o.requires_grad
            ]
        needed = ctx.needs_input_grad[1:]
        wanted = {(None, str(i)): t for i, t in enumerate(inputs) if t.requires_grad and needed[i]}
        found = derivatives(
            [o for o, _ in pairs], wanted, [c for _, c in pairs], create_graph=again
        )
        return None, *(found.get((None, str(i))) for i in range(len(inputs)))
