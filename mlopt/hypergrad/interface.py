"""The interface of hypergradient methods: a problem's solution, and how a cotangent passes it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import GraphError
from .._tensors import Key, Tensors, grad_mode
from ..optim.numbers import Number
from .derivatives import derivatives

__all__ = ["AbstractHypergradient", "Cost", "Response", "foreign", "gradient"]


@dataclass(frozen=True)
class Cost:
    """What a method asks of the engine, for one problem.

    Attributes:
        keeps_graph: dF/dw must stay differentiable until the pullback.
        keeps_base: the base evaluation must also give dF/dr, for every argument r of the pullback.
        evaluations: evaluations of the objective in one pullback; the most, where it depends on
            the numbers.
        backwards: backward passes in one pullback; the most, likewise.
        again: (evaluations, backward passes) that come to it where batches are taken in parts: what
            was kept is the graph of a part, which is computed again.
    """

    keeps_graph: bool = False
    keeps_base: bool = False
    evaluations: int = 0
    backwards: int = 0
    again: tuple[int, int] = (0, 0)


def _unheard(residual: float, solver: str) -> None:
    """Nobody asks."""


def _as_they_are(tensors: Tensors, like: Tensors) -> Tensors:
    """Nobody else computes anything."""
    del like
    return tensors


def _all_here(source: Any) -> None:
    """Nobody else has rows of it."""


@dataclass
class Response:
    """A lower problem with objective F(w; r) at one point of one step.

    Where the problem steers lower problems of its own, F is its *total* objective, in which their
    solutions follow w and r.

    Attributes:
        name: the problem's label.
        value: w, the standing value.
        leaves: the tensors at which the base evaluation was taken, by key of `value`.
        gradient: dF/dw, one base evaluation shared with the problem's own update; parameters that F
            does not use are absent. Differentiable if the method keeps the graph.
        arguments: the tensors r that cotangents can be asked for.
        argument_gradient: dF/dr of the same evaluation, if the method keeps the base.
        parameters: the user's own parameters by key, as the optimizer knows them.
        optimizer: the user's optimizer, or None.
        objective: (w, inner step, other arguments, kept) -> F at another w, and at other r by key
            if given: one more evaluation, with the masks and buffers of the base evaluation and, at
            inner step 0, its batch. Its graph can be gone through again, whatever is evaluated in
            between, and differentiated twice if it is kept.
        upstream: the tensors of the readers' graph from which `leaves` and `arguments` were taken,
            by key, where a pullback must be differentiable.
        seed: of what a method draws itself.
        solved: (relative residual, solver) -> None, to be told of each linear system that was
            solved; the solver's name is empty where it has warned itself. It is among the metrics
            as "problem/residual", and warned of where it is large.
        parts: where batches are taken in parts, () -> blocks, in each of which the objective is
            what one part adds to it; their graphs can be gone through as often as wanted.
        total: (tensors, like) -> on several ranks, the sums of what each has computed by itself, as
            in the blocks of `parts`; without, the same tensors.
        together: () -> a block; what `differentiate` gives in it is there at its end.
        rows: (key) -> of a tensor of whose rows this rank has some, where they begin, and how
            many there are on all ranks; None for everything else.
        numbers: numbers of the optimizer that are variables, by the identity of their tensors.
        reference: dF/dw at w and at the standing value of all that is above, where r is not that:
            then a solution that was taken as optimal has to follow. None where it is.
        resting: of a traced method that reads variables of its own, the parameters of the problem's
            variables that are not trained, by key: frozen ones, and those not in the optimizer.
    """

    name: str
    value: Tensors
    leaves: Tensors
    gradient: Tensors
    arguments: Tensors
    argument_gradient: Tensors
    parameters: Tensors
    optimizer: Any
    objective: Callable[..., Tensor]
    reference: Tensors | None = None
    upstream: Tensors = field(default_factory=dict)
    resting: Tensors = field(default_factory=dict)
    seed: int = 0
    solved: Callable[[float, str], None] = _unheard
    parts: Callable[[], Iterable[AbstractContextManager[None]]] | None = None
    total: Callable[[Tensors, Tensors], Tensors] = _as_they_are
    together: Callable[[], AbstractContextManager[None]] = nullcontext
    rows: Callable[[Any], tuple[int, int] | None] = _all_here
    numbers: Mapping[int, Number] = field(default_factory=dict)

    def numbers_at(self, arguments: Tensors | None = None) -> dict[int, Tensor]:
        """What the optimizer's numbers that are variables are where the problem is evaluated.

        Args:
            arguments: other ones than its own.

        Returns:
            Tensors by the identity of what the optimizer holds, as `AbstractTrajectory.step` takes
            them.
        """
        at = self.arguments if arguments is None else arguments
        return {
            held: at[n.key].detach() if n.stopped else at[n.key] for held, n in self.numbers.items()
        }

    def differentiate(self, value: Tensors, wanted: Sequence[Key]) -> Tensors:
        """The gradient of F by arguments or by w itself, at another w: one evaluation.

        Args:
            value: the other w.
            wanted: keys of `arguments` or of `value`.

        Returns:
            Tensors by wanted key; absent keys are zero. Differentiable under grad mode.
        """
        again = torch.is_grad_enabled()
        own = {k: t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()
               for k, t in value.items() if k in wanted}  # fmt: skip
        with grad_mode(True):
            arguments = self.arguments
            if again:  # w may depend on them too; what is wanted is the partial derivative
                arguments = {k: t.view_as(t) for k, t in arguments.items()}
            at = {**value, **own} if own else value
            loss = self.objective(at, 0, arguments if again else None)
            if not loss.requires_grad:  # what is read may be detached
                return {}
            inputs = {k: own[k] if k in own else arguments[k] for k in wanted}
            return derivatives([loss], inputs, create_graph=again)


def gradient(
    loss: Tensor, inputs: Tensors, name: str, create_graph: bool = False, sparse: bool = False
) -> Tensors:
    """The gradient of an objective by those of the inputs that it depends on.

    Args:
        loss: the objective's value.
        inputs: by key.
        name: the problem's label, for the error.
        create_graph: whether the gradient is to be differentiated in its turn.
        sparse: whether sparse gradients stay so.

    Returns:
        Tensors by key; inputs that the value does not depend on are absent.

    Raises:
        GraphError: it depends on nothing.
    """
    if not inputs:  # all of them are frozen
        return {}
    if not loss.requires_grad:
        raise GraphError(
            f"{name}: its value does not depend on what it is differentiated by. Does the function "
            "use its arguments, or is it under no_grad?"
        )
    return derivatives([loss], inputs, create_graph=create_graph, sparse=sparse)


class AbstractHypergradient(abc.ABC):
    """How a lower problem's solution is approximated, and how gradients pass through it.

    A method is a small immutable object. It must satisfy the pullback law: with s(r) the solution
    it gives as a function of the problem's arguments r, at a fixed standing value,

        pullback(response, c, [r])[r]  =  (ds/dr)^T c

    up to the error that its docstring states. `tests/cases.py` checks this for every method.

    Under grad mode a pullback must be differentiable in its turn, as the backward of an autograd
    function: that is what lets a middle problem use any method for its own lower problem.

    A note on design: a method sees one problem at one point, and nothing of the graph. The sweep
    owns the chain rule, so that methods and graphs multiply instead of add.
    """

    #: Whether `solution` is differentiable by itself under grad mode, so that no pullback is
    #: needed.
    traced: bool = False

    #: Whether the solution is where the problem's own optimizer will go.
    looks_ahead: bool = False

    #: Whether the derivative is that at the solution itself, and not at the standing value.
    at_solution: bool = False

    #: Whether it subtracts gradients that it has taken at displaced points itself, and not by a
    #: product: in low precision their difference would be lost.
    differs: bool = False

    #: Whether what passes to an argument is the same whatever else is asked for with it.
    separable: bool = True

    #: Whether it goes back to numbers of the problem's optimizer (its learning rate, say) that are
    #: variables: those of `Response.numbers`, which a method that is `traced` is given.
    learns: bool = False

    #: Variables, besides the arguments of the objective, that the solution depends on.
    reads: tuple[Any, ...] = ()

    @property
    @abc.abstractmethod
    def moves(self) -> bool:
        """Whether readers see another value than the standing one."""

    @property
    @abc.abstractmethod
    def responds(self) -> bool:
        """Whether cotangents pass."""

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one pullback needs."""

    def cost_of(self, size: int) -> Cost:
        """What one pullback needs for a problem over `size` numbers.

        Args:
            size: of all its variables together.

        Returns:
            The cost; by default the same for every size.
        """
        del size
        return self.cost

    @abc.abstractmethod
    def check(self, name: str, optimizer: Any) -> None:
        """Raise a `GraphError` if the method cannot serve a problem with this optimizer.

        Args:
            name: the problem's label.
            optimizer: the problem's optimizer, or None.
        """

    @abc.abstractmethod
    def solution(self, response: Response) -> Tensors:
        """The value that higher problems read, without a graph (but see `traced`).

        Args:
            response: the problem at this point.

        Returns:
            Tensors with the keys of `response.value`.
        """

    def trace(self, response: Response) -> tuple[Tensors, Any]:
        """The solution, with a graph under grad mode, and the optimizer's state that goes with it.

        Only asked of a method that is `traced`.

        Args:
            response: the problem at this point.

        Returns:
            Tensors with the keys of `response.value` (and of `response.resting`, where those follow
            what the method reads), and what the optimizer's rule can write.
        """
        raise NotImplementedError(f"{type(self).__name__} is not traced")

    @abc.abstractmethod
    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        """Turn a cotangent on the solution into cotangents on arguments.

        Args:
            response: the problem at this point.
            cotangent: by key of `response.value`; absent keys are zero.
            wanted: keys of `response.arguments`.

        Returns:
            Tensors by wanted key; absent keys are zero.
        """


def foreign(method: AbstractHypergradient) -> Any:
    """What is not the library's of a method, and of the products and solvers that it is made of.

    Args:
        method: the method.

    Returns:
        The first such thing; None if all of it is known.
    """
    held: list[Any] = [method]
    for each in held:
        if not type(each).__module__.startswith("mlopt."):
            return each
        for value in (getattr(each, name) for name in getattr(each, "__dataclass_fields__", ())):
            if hasattr(value, "__dataclass_fields__") or (
                type(value).__module__ not in ("builtins", "torch") and callable(value)
            ):
                held.append(value)
    return None
