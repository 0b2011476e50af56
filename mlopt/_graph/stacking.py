"""Which members of stacks are evaluated as one, and what is refused of them."""

from __future__ import annotations

import warnings

from .._errors import CapabilityWarning, GraphError
from .._variable import Variable
from ..hypergrad import Frozen, OneStep, StopGradient
from ..hypergrad.interface import AbstractHypergradient
from ..hypergrad.products import Differences, Exact
from .brief import brief
from .levels import Levels
from .node import Node
from .problem import Problem
from .stack import Stack

__all__ = ["batchable", "check_stacks", "dissolve", "members", "take_apart"]


def check_stacks(graph: Levels) -> None:
    """Members have one method, and nothing that they read depends on another member.

    Args:
        graph: of nodes, groups and methods.

    Raises:
        GraphError: it is not so.
    """
    for stack in (g for g in graph.groups if isinstance(g, Stack)):
        methods = _chosen_methods(graph, stack)
        for other, b in methods.items():
            first, a = next(iter(methods.items()))
            if a != b:
                raise GraphError(
                    f"Stack: {first.name} and {other.name} differ in method: {brief(a)} and "
                    f"{brief(b)}. Give them the same, or list them without a stack."
                )
        for member in stack.members:
            reached: list[Node] = [member]
            for node in reached:
                for source in (r.source for r in node.reads):
                    below = graph.source_node(node, source)
                    named = graph.owner[source] if isinstance(source, Variable) else source
                    if named is not member and named in stack.members:
                        raise GraphError(
                            f"Stack: {member.name} reads {source.name} of {named.name}"
                            + ("" if node is member else f" through {node.name}")
                            + "; members of a stack do not read one another. List them without a "
                            "stack."
                        )
                    if below is not None and below not in reached:
                        reached.append(below)


def members(graph: Levels, node: Node) -> tuple[Node, ...]:
    """A node and those that are evaluated as one with it, in their order.

    Args:
        graph: of stacks and methods.
        node: a problem or signal.

    Returns:
        The node alone where it is in no stack, or its stack's methods cannot be served as one.
    """
    stack = graph.stacks.get(node)
    if stack is None:
        return (node,)
    methods = list(_chosen_methods(graph, stack).values())
    alike = all(m == methods[0] and batchable(m) for m in methods)
    return stack.members if alike else (node,)


def _chosen_methods(graph: Levels, stack: Stack) -> dict[Problem, AbstractHypergradient]:
    """The methods of a stack's members, but for those that name none and that nobody reads.

    Args:
        graph: of methods.
        stack: of problems or signals.

    Returns:
        Methods by problem.
    """
    problems = [m for m in stack.members if isinstance(m, Problem)]
    methods = {p: graph.methods[p] for p in problems}
    return {p: m for p, m in methods.items() if p.hypergrad or type(m) is not Frozen}


def batchable(method: AbstractHypergradient) -> bool:
    """Whether cotangents of several problems can pass this method together.

    Args:
        method: of all of them.

    Returns:
        True for `OneStep` with one of the library's products, and where no cotangents pass.
    """
    if type(method) is StopGradient:
        method = method.method
        return type(method) in (OneStep, Frozen)
    if type(method) is OneStep:
        return isinstance(method.product, Differences) or type(method.product) is Exact
    return type(method) is Frozen


def take_apart(graph: Levels, how: str = "in parts of its batch") -> None:
    """Evaluate the members of all stacks one by one, since batches are taken in parts, say.

    Args:
        graph: of which stacks and notes are changed.
        how: each is evaluated.
    """
    for stack in dict.fromkeys(graph.stacks.values()):
        _note(graph, stack, f"{stack.names} are evaluated one by one, each {how}")
    graph.stacks.clear()


def dissolve(graph: Levels, node: Node, reason: str) -> None:
    """Evaluate the members of a node's stack one by one from now on, and say so once.

    Args:
        graph: of which stacks and notes are changed.
        node: a member.
        reason: why they cannot be evaluated as one.
    """
    stack = graph.stacks.get(node)
    if stack is None:
        return
    what = f"{stack.names} are evaluated one by one"
    for member in stack.members:
        graph.stacks.pop(member, None)
    _note(graph, stack, f"{what}, not stacked: {reason}")
    warnings.warn(
        f"Stack: {what}, because torch.func.vmap cannot run their function: {reason} Keep .item(), "
        "branches on values and custom functions without vmap support out of it, or drop the "
        "stack.",
        CapabilityWarning,
        stacklevel=2,
    )


def _note(graph: Levels, stack: Stack, note: str) -> None:
    first = stack.members[0]
    earlier = graph.notes.get(first)  # type: ignore[call-overload]
    graph.notes[first] = f"{earlier}; {note}" if earlier else note  # type: ignore[index]
