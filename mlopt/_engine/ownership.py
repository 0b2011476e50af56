"""`Ownership`: is what the modules and optimizers hold now what an engine trains?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .._errors import GraphError
from .._evaluation.binding import dicts_of
from .._evaluation.listing import Listed, Listing, same_things
from .._evaluation.point import Evaluator
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._graph.refusals import check_modules, check_parameters
from .._graph.trained import trainable
from .._tensors import Tensors
from ..optim.numbers import learned
from .reach import replaced_step
from .transaction import resting

__all__ = ["Ownership"]

_on_gradient = attrgetter("_backward_hooks")
_on_accumulation = attrgetter("_post_accumulate_grad_hooks")
_groups, _in_group = attrgetter("param_groups"), itemgetter("params")
_learns = attrgetter("requires_grad")
_joined = chain.from_iterable
_method = attrgetter("hypergrad")
#: What may be given anew between steps.
_options = attrgetter("optimizer", "scheduler", "clip", "start", "every", "repeat")
_declared = attrgetter(
    "hypergrad", "optimizer", "scheduler", "clip", "start", "every", "repeat"
)  # fmt: skip


def _before_step(optimizer: Any) -> dict[Any, Any]:
    """Its hooks; a wrapper that has never called `Optimizer.__init__` has none."""
    return getattr(optimizer, "_optimizer_step_pre_hooks", _NO_HOOKS)


def _after_step(optimizer: Any) -> dict[Any, Any]:
    return getattr(optimizer, "_optimizer_step_post_hooks", _NO_HOOKS)


_NO_HOOKS: dict[Any, Any] = {}
#: Those that torch calls for every optimizer.
_EVERYONES = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)


class Ownership:
    """Looks before each step whether anything is other than when it was last checked.

    That is the parts of modules, the tensors that optimizers hold or take as numbers, hooks of
    parameters and optimizers, and what problems were declared with.

    Args:
        graph: the graph.
        evaluator: of the graph; it is told of other parts.

    Attributes:
        trains: whether any problem has an optimizer.
        resting: of problems whose steps start at another variable, what is not trained of their
            own, by key; as of the last call of `trained`.
    """

    trains: bool

    def __init__(self, graph: Graph, evaluator: Evaluator) -> None:
        self.graph, self.evaluator = graph, evaluator
        self._methods = [_method(p) for p in graph.problems]
        self._options: list[Any] = []
        self._parameters: list[Tensor] = []
        self._held: list[set[int]] = []
        self._own: list[Any] = []  # optimizers
        self._hooks: list[Any] = []
        self._listed = Listing(())
        self._parts: list[Any] = []
        self._inside: Listed = ([], [])
        self._learning: list[bool] | None = None
        self._trained: dict[Problem, Tensors] = {}
        self.resting: dict[Problem, Tensors] = {}
        self._note()

    def changed(self) -> bool:
        """Whether anything differs from the last time."""
        return not same_things(self._inside, self._look()) or self._hooks_now() != self._hooks

    def trained(self) -> dict[Problem, Tensors]:
        """The parameters that each problem updates, by key; found anew where some are frozen."""
        learning = [*map(_learns, self._parameters)]
        if learning != self._learning:
            check_parameters(self.graph)  # one that several variables hold may have thawed
            named = self.evaluator.parameters
            self._trained = {p: trainable(p, named) for p in self.graph.problems}
            self.resting.clear()  # it is the transaction's, too
            found = ((p, resting(p, self.graph.methods[p], named)) for p in self.graph.problems)
            self.resting.update((p, held) for p, held in found if held)
            self._learning = learning
        return self._trained

    def check(self) -> None:
        """Take what is there now; see that all of it is trained as its owner means it.

        Raises:
            GraphError: a new parameter that no optimizer holds, a tensor in an optimizer that is
                not its problem's, a module that is not served, a hook that would be passed by, or
                a problem that could not be declared so.
        """
        self._check_declared()
        self.evaluator.bind()
        check_modules(self.graph)
        check_parameters(self.graph)
        self.graph._check_optimizers()
        staged = all(map(self.graph.staged, self.graph.problems))
        known = set(map(id, self._parameters))  # which are held here, so that no id is used again
        for problem in self.graph.problems:
            if problem.optimizer is not None:
                self._check_new(problem, known)
                self._check_step_hooks(problem)
                self._check_tensor_hooks(problem, staged)
        self._note()

    def _note(self) -> None:
        graph, evaluator = self.graph, self.evaluator
        self._parameters = [p for v in graph.variables for p in evaluator.parameters(v).values()]
        self._options = [_options(p) for p in graph.problems]
        self._held = [set(map(id, _held(p))) for p in graph.problems]
        self._own = [p.optimizer for p in graph.problems if p.optimizer is not None]
        self._hooks = self._hooks_now()
        self.trains = bool(self._own)
        bindings = evaluator.bindings.values()
        dicts = [*_joined(b.dicts for b in bindings)]
        dicts += [*map(_before_step, self._own), *map(_after_step, self._own)]
        dicts += [*_EVERYONES, *self._of_stacks()]
        self._parts = [*_joined(b.owners for b in bindings)]
        self._listed = Listing(dicts, _joined(b.buffer_dicts for b in bindings))
        self._inside, self._learning = self._look(), None

    def _of_stacks(self) -> list[dict[str, Any]]:
        """Attributes and hooks of the parts of members, of which one module stands for all."""
        bindings = self.evaluator.bindings
        bound = dict.fromkeys(s for node in self.graph.stacks for s in self.evaluator.bound(node))
        parts = [vars(part) for source in bound for part in bindings[source].module.modules()]
        hooks = [held for part in parts for name, held in part.items() if name.endswith("_hooks")]
        return [*parts, *(held for held in hooks if isinstance(held, dict))]

    def _look(self) -> Listed:
        """What is in problems, in the parts of modules, and in optimizers' groups and hooks now."""
        groups = [*_joined(map(_groups, self._own))]
        held = [*map(_in_group, groups)]
        sizes, things = self._listed()
        declared = _joined(map(_declared, self.graph.problems))
        things += [*declared, *dicts_of(self._parts), *held, *_joined(held)]
        numbers = learned(groups)
        things += numbers
        return [*sizes, *map(len, held), len(numbers)], things

    def _check_declared(self) -> None:
        for problem, method in zip(self.graph.problems, self._methods, strict=True):
            if problem.hypergrad != method:
                raise GraphError(
                    f"{problem.name}: hypergrad= is another than when its engine was made, whose "
                    "graph is made of it. Put it back, or make a new engine."
                )
        for problem, held in zip(self.graph.problems, self._held, strict=True):
            problem._check_options(held)
        if [*map(_options, self.graph.problems)] != self._options:
            self.graph._check_options()

    def _hooks_now(self) -> list[Any]:
        """Which hooks parameters have, and which steps are objects' own, as can be compared."""
        found = [own["step"] for own in map(vars, self._own) if "step" in own]
        if any(map(_on_gradient, self._parameters)) or any(map(_on_accumulation, self._parameters)):
            of = ((p, _on_gradient(p) or (), _on_accumulation(p) or ()) for p in self._parameters)
            found += [(id(p), *hooks, *after) for p, hooks, after in of if hooks or after]
        return found

    def _check_new(self, problem: Problem, known: set[int]) -> None:
        held = set(map(id, _held(problem)))
        for v in problem.over:
            for name, p in self.evaluator.parameters(v).items():
                if p.requires_grad and id(p) not in held and id(p) not in known:
                    raise GraphError(
                        f"{problem.name}: {v.name}.{name} is new, and its optimizer does not hold "
                        "it: it would not be trained. Call optimizer.add_param_group({'params': "
                        "[...]}) with it, or parameter.requires_grad_(False)."
                    )

    def _check_step_hooks(self, problem: Problem) -> None:
        method = self.graph.methods[problem]
        optimizer = problem.optimizer
        has = "step hooks" if _before_step(optimizer) or _after_step(optimizer) else ""
        if not has and any(_EVERYONES):
            has = "step hooks, those of all optimizers (register_optimizer_step_pre_hook)"
        if not has and replaced_step(optimizer):
            has = "a step() of its own, which is not that of its class"
        if has and method.looks_ahead and self._is_read(problem):
            raise GraphError(
                f"{problem.name}: its optimizer has {has}, which {brief(method)} does not see "
                "when it takes the optimizer's steps ahead. Take OneStep(lr=...), which is a plain "
                "step whatever the optimizer does, or do what is added in a callback."
            )

    def _check_tensor_hooks(self, problem: Problem, staged: bool) -> None:
        graph, method = self.graph, self.graph.methods[problem]
        # Autograd runs hooks where it takes the gradient of the standing value. That is the whole
        # one if no other level adds to it, and OneStep's product goes back through them.
        whole = staged and not graph.sweeps[problem].nodes
        through = not method.traced and not method.at_solution and method.cost.keeps_graph
        read = self._is_read(problem)
        for v in problem.over:
            for name, p in self.evaluator.parameters(v).items():
                if _on_accumulation(p):
                    raise GraphError(
                        f"{problem.name}: {v.name}.{name} has a hook that runs after its gradient "
                        "has accumulated, and gradients do not accumulate here. Do what it does in "
                        "a step hook of the optimizer, or in a callback's on_step."
                    )
                hooks = _on_gradient(p)
                if hooks and not (whole and (through or not read)):
                    why = f"{brief(method)} does not go" if read else "parts of its gradient go"
                    raise GraphError(
                        f"{problem.name}: {v.name}.{name} has a hook on its gradient, through "
                        f"which {why} as the whole one would. Let the objective or a step hook of "
                        "the optimizer change the gradient; OneStep(product=Exact()) goes through "
                        "hooks where levels are not nested. A hook that only looks cannot be told "
                        "from one that changes it: look in a step hook, or in Callback.on_step."
                    )

    def _is_read(self, problem: Problem) -> bool:
        """Whether a higher node reads the problem's solution."""
        return self.graph.participates(problem) and any(
            self.graph.source_node(reader, read.source) is problem
            for reader, read in self.graph.readers(problem)
        )


def _held(problem: Problem) -> Iterable[Tensor]:
    """What a problem's optimizer holds, in its order."""
    if problem.optimizer is None:
        return ()
    return _joined(map(_in_group, problem.optimizer.param_groups))
