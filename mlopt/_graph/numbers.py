"""Numbers of optimizers that are variables: where they are declared, who differentiates them."""

from __future__ import annotations

from typing import Any

from .._errors import GraphError
from .._tensors import Key
from ..optim.numbers import Number, numbers_in
from .brief import brief
from .levels import Levels
from .problem import Problem

__all__ = ["check_numbers", "numbers_of"]


def numbers_of(graph: Levels) -> dict[Problem, dict[int, Number]]:
    """The numbers of optimizers (learning rate, momentum) that are tensors of variables.

    Such a number is read as an argument is: it is declared in `given`, and takes the value that the
    variable has where the problem is evaluated.

    Args:
        graph: the graph.

    Returns:
        For each problem that has some, they by the tensors' identities.

    Raises:
        GraphError: one is not declared, or is not moved above its problem alone.
    """
    keys: dict[int, Key] = {
        id(t): (v, name) for v in graph.variables for name, t in v.named_parameters().items()
    }
    found: dict[Problem, dict[int, Number]] = {}
    for problem in graph.problems:
        stopped = {read.source: read.stopped for read in problem.reads}
        groups = problem.optimizer.param_groups if problem.optimizer is not None else ()
        for option, tensor in numbers_in(groups):
            if tensor.requires_grad and (key := keys.get(id(tensor))) is not None:
                _check_declared(graph, problem, option, key)
                number = Number(option, key, stopped[key[0]])
                found.setdefault(problem, {})[id(tensor)] = number
    return found


def check_numbers(graph: Levels) -> None:
    """Whoever differentiates a step takes in what gradient it has by numbers that are variables.

    Raises:
        GraphError: a method takes one for a constant.
    """
    for problem, numbers in graph.numbers.items():
        method = graph.methods[problem]
        if method.learns and method.traced:
            continue
        passed = {s for sweep in graph.sweeps.values() for s in sweep.edges.get(problem, ())}
        for number in numbers.values():
            variable = number.key[0]
            owner = graph.owner[variable]
            # A middle problem is read where it goes: there a look-ahead has another number.
            nested = graph.participates(problem) and graph.participates(owner)
            moved = nested and method.looks_ahead
            learned = variable in passed or (nested and method.responds and not number.stopped)
            if learned or moved:
                stop = "" if moved else f", or give it stop({variable.name})"
                raise GraphError(
                    f"{problem.name}: {brief(method)} takes the optimizer's {number.option}, which "
                    f"is {_path(number.key)}, for a constant, and what {owner.name} is to learn "
                    "of it would be missed. Take Unrolled(1), which makes the optimizer's step and "
                    f"goes back through it{stop}."
                )


def _check_declared(graph: Levels, problem: Problem, option: str, key: Key) -> None:
    variable: Any = key[0]
    owner, path = graph.owner[variable], _path(key)
    what = f"{problem.name}: its optimizer takes {path} as its {option}"
    if graph.rank[owner] <= graph.rank[problem]:
        where = "it is itself" if owner is problem else f"{owner.name}, which is not above it, is"
        raise GraphError(
            f"{what}, which {where} over: the step would change the number that it is made with. "
            f"Let a problem over {variable.name} stand above {problem.name} in the list, or give "
            "the optimizer a number."
        )
    if variable not in [read.source for read in problem.reads]:
        raise GraphError(
            f"{what}, and is not given it. Put {variable.name} into given= (or stop() of it), and "
            "let the function take it as an argument, which it need not use."
        )
    if option == "lr" and problem.scheduler is not None:
        raise GraphError(
            f"{what}, and its scheduler writes there, while {owner.name} learns it. Drop "
            "scheduler=, or give the optimizer a number."
        )


def _path(key: Key) -> str:
    return f"{key[0].name}.{key[1]}" if key[1] else key[0].name
