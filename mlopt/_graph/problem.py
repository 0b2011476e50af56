"""`problem`: one level, as one function."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Container, Sequence
from typing import Any, Literal

import torch

from .._arguments import from_one, from_zero, take
from .._errors import GraphError
from .._turn import waits
from .._variable import Stop, Variable
from ..hypergrad.interface import AbstractHypergradient
from ..optim.numbers import numbers_in
from .node import Node, Precision, Read, argument, label_of
from .scheduler import PerStep, check_scheduler

__all__ = ["PerStep", "Problem", "problem"]


class Problem(Node):
    """One level: an objective, the variables it is minimised over, and how they are updated.

    Made by the decorator `problem`. The plain function stays at `.fn`, and calling the problem
    calls it, so one equation can be tested without an engine.
    """

    @waits
    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        over: Any,
        given: Sequence[Any] = (),
        data: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        hypergrad: AbstractHypergradient | None = None,
        scheduler: Any = None,
        clip: float | None = None,
        start: int = 0,
        every: int = 1,
        repeat: int = 1,
        precision: Precision | None = None,
        split: int | bool | Callable[[Any, int], Sequence[Any]] | None = None,
        count: Callable[[Any], Any] | None = None,
        combine: Literal["mean", "sum"] = "mean",
        name: str | None = None,
    ) -> None:
        label = label_of("problem", fn, name)
        over_argument = argument(over, label)
        for read in over_argument.reads:
            if not isinstance(read.source, Variable) or read.stopped:
                raise GraphError(f"{label}: over= takes a Variable or a list of them.")
        super().__init__(fn, name, (over_argument,), given, data, precision, split, count, combine)
        self.over: tuple[Variable, ...] = tuple(r.source for r in over_argument.reads)
        self.optimizer = optimizer
        self.hypergrad = hypergrad
        self.scheduler = scheduler
        self.clip = clip
        self.start, self.every, self.repeat = start, every, repeat
        self._check_options()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "hypergrad":
            own = tuple(r for argument in self.arguments for r in argument.reads)
            sources = [r.source for r in own]
            # what its method reads behind its function
            behind = value.reads if isinstance(value, AbstractHypergradient) else ()
            self.reads = (*own, *(Read(v) for v in behind if v not in sources))

    def _check_options(self, known: Container[int] = ()) -> None:
        """Refuse what no problem can be declared with, now as when it was.

        Args:
            known: identities of tensors that its optimizer may hold though they are not, or no
                longer, of its variables.

        Raises:
            GraphError: an option is not what it must be.
        """
        self.start = take(GraphError, self.name, "start", self.start, int, from_zero)
        self.every = take(GraphError, self.name, "every", self.every, int, from_one)
        self.repeat = take(GraphError, self.name, "repeat", self.repeat, int, from_one)
        if self.hypergrad is not None and not isinstance(self.hypergrad, AbstractHypergradient):
            raise GraphError(
                f"{self.name}: hypergrad= takes a method such as OneStep() or Frozen(), "
                f"got {self.hypergrad!r}."
            )
        number = isinstance(self.clip, numbers.Real) and not isinstance(self.clip, bool)
        if self.clip is not None and not (number and self.clip > 0):
            raise GraphError(f"{self.name}: clip={self.clip!r} must be a positive norm, or None.")
        if self.optimizer is None:
            if self.scheduler is not None:
                check_scheduler(self.name, self.scheduler, None)
            return
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise GraphError(
                f"{self.name}: optimizer= takes a torch.optim.Optimizer, "
                f"got {type(self.optimizer).__name__}."
            )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise GraphError(
                f"{self.name}: LBFGS evaluates its objective itself, which a step that commits all "
                "levels at once cannot allow. Use another optimizer."
            )
        try:
            # Of the class: schedulers put a step of their own into the object.
            inspect.signature(type(self.optimizer).step).bind(self.optimizer)
        except TypeError:
            raise GraphError(
                f"{self.name}: the step() of {type(self.optimizer).__name__} asks for arguments, a "
                "closure perhaps: it would evaluate its objective itself, which a step that "
                "commits all levels at once cannot allow. Use another optimizer."
            ) from None
        except ValueError:  # some callables in C have no signature
            pass
        if self.scheduler is not None:
            check_scheduler(self.name, self.scheduler, self.optimizer)
        for option, number in numbers_in(self.optimizer.param_groups):
            if number.requires_grad and not number.is_leaf:
                raise GraphError(
                    f"{self.name}: the {option} of its optimizer is computed from tensors that "
                    "require grad. That was done once: it follows none of them, and a second "
                    "gradient cannot pass. Let the number itself be a variable that is given, "
                    f"{option}=H.tensor; where it is not learned, give {option}=number.detach(), "
                    f"and set group['{option}'] anew in a callback."
                )
        own = {id(p): p for v in self.over for p in v.parameters()}
        trained = {i for i, p in own.items() if p.requires_grad}
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                trained.discard(id(p))
                if id(p) not in own and id(p) not in known:
                    raise GraphError(
                        f"{self.name}: its optimizer holds a tensor of shape {tuple(p.shape)} that "
                        f"is not one of {', '.join(v.name for v in self.over)}. "
                        "Build it over the variable's own parameters()."
                    )
        if trained and len(trained) == sum(p.requires_grad for p in own.values()):
            raise GraphError(
                f"{self.name}: its optimizer holds none of the tensors of "
                f"{', '.join(v.name for v in self.over)} that require grad, so nothing would be "
                "trained. Build it over the variable's own parameters()."
            )

    @property
    def size(self) -> int:
        """How many numbers its variables have together."""
        return sum(p.numel() for v in self.over for p in v.parameters())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def problem(
    *,
    over: Variable | Sequence[Variable],
    given: Sequence[Any | Stop] = (),
    data: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    hypergrad: AbstractHypergradient | None = None,
    scheduler: Any = None,
    clip: float | None = None,
    start: int = 0,
    every: int = 1,
    repeat: int = 1,
    precision: Precision | None = None,
    split: int | bool | Callable[[Any, int], Sequence[Any]] | None = None,
    count: Callable[[Any], Any] | None = None,
    combine: Literal["mean", "sum"] = "mean",
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Problem]:
    """Declare one level of a multi-level problem.

        w* = argmin over w of  F(w, given..., batch)

    The function returns a scalar, or `(scalar, metrics)`. It is called with modules and tensors: a
    module variable arrives as the module itself, with this evaluation's values swapped in. It may
    be called several times in a step, so it must have no side effects.

    Args:
        over: the variable it is minimised over; a list arrives as a list.
        given: the variables and signals it reads, in the order of the arguments; a list of them
            arrives as a list, and `stop(x)` is read as a constant.
        data: a loader or `Stream`; its batch is the last argument. A tuple of them gives a tuple.
        optimizer: a torch optimizer over the variable's parameters; it is used as it is. A number
            of it (lr=H.tensor) may be a higher variable, which is then among `given`. None for a
            problem whose hypergradient alone is asked for.
        hypergrad: how gradients of higher problems pass through this problem's solution; by default
            the engine's method.
        scheduler: a torch scheduler of the optimizer, stepped after each epoch in which the problem
            was updated, or as `PerStep(scheduler)` once after each such step of the engine. A
            `ReduceLROnPlateau` is told the mean loss of the problem's updates in the epoch; for a
            validation metric step it yourself, in `Callback.on_validation`.
        clip: the greatest 2-norm of the update's gradient; look-aheads are not clipped.
        start: the epoch (from 0) of its first update; until then others read it as it stands.
        every: its updates come at every n-th step.
        repeat: its updates inside one step, each on a batch of its own; needs `Frozen()` where a
            higher problem reads it.
        precision: what it is computed in, as of `Engine`; "float32" where the engine has another.
        split: where `Engine(parts=m)` cuts its batch: the dimension that counts samples, by
            default the first of every tensor; or a function (batch, parts) -> list of parts, at
            most so many; or False: its batch is taken whole, as an objective needs that compares
            the samples of a batch with each other.
        count: what a part of its batch counts in the mean over parts: a function (part) -> number,
            for objectives that are a mean over something else than samples (words that are not
            masked, say); by default its samples. At a part that counts nothing the objective must
            be finite.
        combine: whether the objective is a "mean" over samples or their "sum".
        name: label; by default the function's name.

    Returns:
        A decorator that makes the `Problem`.

    Raises:
        GraphError: the function's arguments do not match what it reads, the optimizer is not over
            the variable's tensors, or an option is out of range.

    Examples:
        >>> import torch, mlopt
        >>> W = mlopt.Variable(torch.nn.Parameter(torch.ones(2)), "w")
        >>> @mlopt.problem(over=W)
        ... def ridge(w):
        ...     return (w**2).sum()
        >>> ridge(torch.tensor([3.0, 4.0]))
        tensor(25.)
    """
    return lambda fn: Problem(
        fn,
        over=over,
        given=given,
        data=data,
        optimizer=optimizer,
        hypergrad=hypergrad,
        scheduler=scheduler,
        clip=clip,
        start=start,
        every=every,
        repeat=repeat,
        precision=precision,
        split=split,
        count=count,
        combine=combine,
        name=name,
    )
