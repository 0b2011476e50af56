"""What a graph refuses, in the order in which the messages are the most helpful."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from .._errors import GraphError
from .._variable import Variable
from .brief import brief
from .equilibria import check_game
from .levels import Levels
from .node import Node, Read
from .problem import Problem

__all__ = [
    "check_missing_methods",
    "check_modules",
    "check_nodes",
    "check_parameters",
    "check_reads",
    "check_solutions",
]


def check_nodes(nodes: Sequence[Node]) -> None:
    """The list holds problems and signals, each once."""
    seen: set[Node] = set()
    for node in nodes:
        if not isinstance(node, Node):
            raise GraphError(
                f"Engine: its list holds a {type(node).__name__}; it takes problems and "
                "signals. Is a function not decorated?"
            )
        if node in seen:
            raise GraphError(f"{node.name} is listed twice; list each problem and signal once.")
        seen.add(node)
    if not any(isinstance(n, Problem) for n in nodes):
        raise GraphError("Engine: the list holds no problem.")


def check_reads(graph: Levels) -> None:
    """Every source that is read is in the list, signals below their readers."""
    for node in graph.nodes:
        for read in node.reads:
            source = read.source
            if isinstance(source, Variable):
                if source not in graph.owner:
                    raise GraphError(
                        f"{node.name} reads {source.name}, and no problem of the list is over "
                        "it. List the problem over it; a constant network needs no variable."
                    )
            elif isinstance(source, Problem):
                raise GraphError(
                    f"{node.name} reads the problem {source.name}; read its variable instead."
                )
            elif source not in graph.rank:
                raise GraphError(
                    f"{node.name} reads the signal {source.name}, which is not in the list; "
                    f"list it below {node.name}."
                )
            elif graph.rank[source] >= graph.rank[node]:
                raise GraphError(
                    f"{node.name} reads the signal {source.name}, which is listed above it; "
                    f"list it below {node.name}."
                )


#: Modules that take gradients to other processes by hooks of their own, which never fire here.
_DISTRIBUTED = {
    "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine",
}  # fmt: skip


def check_modules(graph: Levels) -> None:
    """No variable holds a module that would leave its ranks to part, or that has no shape yet."""
    for v in graph.variables:
        for name, part in v.value.named_modules() if isinstance(v.value, nn.Module) else ():
            kinds = {kind.__name__ for kind in type(part).__mro__} & _DISTRIBUTED
            if kinds:
                raise GraphError(
                    f"{_path(v, name)} is a {kinds.pop()}: it averages gradients in hooks, which "
                    "autograd does not call where it takes hypergradients, so ranks would part. "
                    "Give the variable the module inside of it (.module): an engine adds up over "
                    "the ranks of a process group by itself, see Engine(ranks=)."
                )
            held = (*part._parameters.values(), *part._buffers.values())
            if any(is_lazy(t) for t in held if t is not None):
                raise GraphError(
                    f"{_path(v, name)} is a {type(part).__name__} that has seen no input, so its "
                    "parameters have no shape yet. Call the module once on a batch, and make the "
                    "engine after that."
                )


def check_parameters(graph: Levels) -> None:
    """A parameter that moves belongs to one variable, an optimizer to one problem."""
    holder: dict[int, tuple[Variable, str, Any]] = {}
    for v in graph.variables:
        method = graph.methods.get(graph.owner[v])
        starts = method.reads if method is not None and method.traced else ()
        stay = {id(p) for start in starts for p in start.parameters()}
        for name, p in v.named_parameters().items():
            follows = () if id(p) in stay else starts  # it is placed where these are
            other, other_name, others = holder.setdefault(id(p), (v, name, follows))
            if other is not v and (p.requires_grad or others != follows):
                where = "" if p.requires_grad else ", whose steps do not start at the same variable"
                raise GraphError(
                    f"the parameter {_path(v, name)} is also {_path(other, other_name)}{where}: a "
                    "parameter that is trained belongs to one variable. Tie parameters inside one "
                    "variable, or copy it" + ("; or freeze it." if p.requires_grad else ".")
                )
    optimizers: dict[int, Problem] = {}
    for p in graph.problems:
        other = optimizers.setdefault(id(p.optimizer), p)
        if p.optimizer is not None and other is not p:
            raise GraphError(f"{p.name} and {other.name} share one optimizer; give each its own.")


def check_missing_methods(graph: Levels) -> None:
    """A response that nobody chose a method for is an error, never silently first order."""
    still = {p for p in graph.problems if not graph.methods[p].responds and p.hypergrad is not None}
    played = {p for p, game in graph.games.items() if game.traced}  # by the steps of the game
    for upper in graph.problems:
        for _, node in _walks(graph, upper, still):
            if isinstance(node, Problem) and node.hypergrad is None and node not in played:
                raise GraphError(
                    _order(upper, node)
                    + f"{upper.name} reads {_names(node)} (or what depends on it), the solution "
                    f"of {node.name}, which depends on {_names(upper)}, the variable that "
                    f"{upper.name} minimises. Say how gradients pass through {node.name}: "
                    "hypergrad=OneStep(...), or Frozen() to ignore the response; or give the "
                    "engine a default, Engine(..., hypergrad=...)." + _choice_of_a_game(upper, node)
                )


def check_solutions(graph: Levels) -> None:
    """Every method that some reader will ask for a solution must be able to give it."""
    for problem in graph.problems:
        if graph.methods[problem].traced:
            game = graph.games.get(problem)
            if game is not None and not game.traced and len(game.players) > 1:
                others = " and ".join(p.name for p in game.players if p is not problem)
                method = brief(graph.methods[problem])
                raise GraphError(
                    f"{problem.name}: {method} takes several steps, in a game with {others} whose "
                    "players move together, one step each. Give the game a play that takes steps, "
                    "such as mlopt.games.Alternating((player, steps), ...), and leave hypergrad= "
                    "out; or use OneStep."
                )
            if problem.clip is not None:
                raise GraphError(
                    f"{problem.name}: clip={problem.clip} acts on updates alone, while "
                    f"{type(graph.methods[problem]).__name__} commits the very steps it "
                    "differentiates. Drop clip=."
                )
            graph.methods[problem].check(problem.name, problem.optimizer)
    for reader in graph.nodes:
        for read in reader.reads:
            below = graph.source_node(reader, read.source)
            if isinstance(below, Problem) and graph.participates(below):
                graph.methods[below].check(below.name, below.optimizer)
                check_game(graph, below)
                if below.repeat > 1 and graph.methods[below].moves:
                    raise GraphError(
                        f"{reader.name} reads the solution of {below.name}, which makes "
                        f"{below.repeat} updates in a step, while its method sees one. Set "
                        f"repeat=1, or hypergrad=Frozen() on {below.name}."
                    )


def _order(upper: Problem, lower: Problem) -> str:
    """Who lists the highest level first, as other libraries do, hears of that before all else."""
    if upper.hypergrad is None or lower.hypergrad is not None:
        return ""
    return (
        f"The list goes from the lowest level to the highest, and {lower.name} stands below "
        f"{upper.name}, while hypergrad= is given to {upper.name}. If {upper.name} is the lower "
        f"level, list it first: Engine([{upper.name}, {lower.name}]). As it is listed: "
    )


def _choice_of_a_game(upper: Problem, lower: Problem) -> str:
    """What else two problems that read each other may be."""
    mutual = any(r.source in upper.over for r in lower.reads) and any(
        r.source in lower.over for r in upper.reads
    )
    if not mutual:
        return ""
    return (
        f" Or, if {upper.name} is the lower level, list it first; if neither is below the other, "
        f"list them as one: Game([{lower.name}, {upper.name}])."
    )


def _walks(graph: Levels, upper: Problem, still: Container[Node]) -> list[tuple[Node, Node]]:
    """The reads on all ways from a problem to its variables, if all levels below it moved.

    A sweep only goes down. Here the variable of a higher problem is followed as well, up to the
    problem over it, if that is below `upper`: a way that does so is what nests levels.

    Returns:
        Pairs (reader, the problem or signal that it reads).
    """

    def followed(reader: Node, read: Read) -> bool:
        """Whether the way goes on from the reader to what it reads."""
        node = graph.node(read.source)
        below = node not in still and graph.rank[node] < graph.rank[upper]
        return below and node is not reader and not (
            read.stopped or read.source in upper.over or graph.stands(reader, read.source)
        )  # fmt: skip

    reacting: set[Node] = set()
    waiting: list[Node] = [upper]
    for node in waiting:
        for reader, read in graph.readers(node):
            below = reader not in still and graph.rank[reader] < graph.rank[upper]
            passes = not read.stopped if node is upper else followed(reader, read)
            if below and passes and reader not in reacting:
                reacting.add(reader)
                waiting.append(reader)
    reached: dict[Node, None] = {upper: None}
    walks: list[tuple[Node, Node]] = []
    queue: list[Node] = [upper] if reacting else []
    for reader in queue:
        for read in reader.reads:
            node = graph.node(read.source)
            if node in reacting and followed(reader, read):
                walks.append((reader, node))
                if node not in reached:
                    reached[node] = None
                    queue.append(node)
    return walks


def _names(problem: Problem) -> str:
    return ", ".join(v.name for v in problem.over)


def _path(variable: Variable, name: str) -> str:
    return f"{variable.name}.{name}" if name else variable.name
