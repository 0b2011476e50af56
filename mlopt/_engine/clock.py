"""What goes on between steps: schedulers, and the mean metrics of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import PerStep, Problem
from .._graph.stream import Stream
from .numbers import means
from .outcome import Outcome
from .transaction import Transaction

__all__ = ["Clock", "check_epochs", "counting_stream", "still"]

_scheduler = attrgetter("scheduler")


class Clock:
    """Steps the users' schedulers, and keeps the means of an epoch: of losses and users' metrics.

    Each update of a problem counts once, with what its base evaluation gave: every round, and every
    step of a method that takes several. A scheduler is stepped only if its problem was updated:
    torch warns of the contrary.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.means: dict[str, float] = {}
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    @property
    def state(self) -> dict[str, Any]:
        """The means of the last epoch, and what those of this one are made of."""
        return {"means": self.means, "sums": self._sums, "counts": self._counts}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.means, self._sums, self._counts = state["means"], state["sums"], state["counts"]

    def after_step(
        self, outcome: Outcome, transaction: Transaction, epochs: bool, ended: bool
    ) -> None:
        """Count a step; at an epoch's end step its schedulers and take the means.

        Args:
            outcome: of the step.
            transaction: of which all this is a part.
            epochs: whether there are any to take means over.
            ended: whether an epoch ended with it.
        """
        if not (epochs or any(map(_scheduler, self.graph.problems))):
            return
        transaction.memory.keep_attributes(self, "means", "_sums", "_counts")
        sums, counts = self._sums.copy(), self._counts.copy()
        if epochs:
            for name, value, times in self._counted(outcome):
                sums[name] = sums[name] + value if name in sums else value
                counts[name] = counts.get(name, 0) + times
        # One that has spoilt the step is not stepped a second time.
        spoilt = outcome.failed is not None and outcome.failed[1] == "scheduler"
        scheduled = () if spoilt else self.graph.problems
        for problem in scheduled:
            if problem in outcome.updated and isinstance(problem.scheduler, PerStep):
                loss = outcome.metrics[self._loss(problem)]
                self._schedule(problem, problem.scheduler.scheduler, loss, transaction)
        if ended:
            self.means = {name: float(total) / counts[name] for name, total in sums.items()}
            for problem in scheduled:
                scheduler, loss = problem.scheduler, self.means.get(self._loss(problem))
                if not (loss is None or scheduler is None or isinstance(scheduler, PerStep)):
                    self._schedule(problem, scheduler, loss, transaction)
            sums, counts = {}, {}
        self._sums, self._counts = sums, counts

    def _loss(self, problem: Problem) -> str:
        return f"{self.graph.labels[problem]}/loss"

    def _counted(self, outcome: Outcome) -> Iterator[tuple[str, Tensor | float, int]]:
        """What means are taken of: a sum, and of how many updates it is."""
        for problem, updates in outcome.updates.items():
            for metrics, more in updates if problem in outcome.updated else ():
                for name, value in means(metrics):
                    yield name, value, 1
                if more:
                    yield self._loss(problem), torch.stack([*more]).sum(), len(more)

    def _schedule(
        self, problem: Problem, scheduler: Any, loss: Tensor | float, transaction: Transaction
    ) -> None:
        # Torch's own mark of an optimizer that has stepped, without which its schedulers warn: a
        # method that takes the steps itself commits them past `step()`.
        problem.optimizer._opt_called = True  # type: ignore[union-attr]
        told = (float(loss),) if isinstance(scheduler, ReduceLROnPlateau) else ()
        transaction.schedule(problem, *told)


def counting_stream(graph: Graph) -> Stream | None:
    """The stream that counts epochs: the first one of a problem that draws from the first step on.

    Args:
        graph: the graph.

    Returns:
        It; None if there is none.
    """
    drawn = (p for p in graph.problems if p.streams and _draws(graph, p, 0))
    return next((p.streams[0] for p in drawn), None)


def _draws(graph: Graph, node: Node, epoch: int) -> bool:
    """Whether a node is evaluated in this epoch: it does not wait, and is updated or read."""
    if not isinstance(node, Problem):
        return True
    if node.start > epoch:
        return False
    return node.optimizer is not None or (graph.participates(node) and any(graph.readers(node)))


def still(graph: Graph, stream: Stream, epoch: int) -> bool:
    """Whether nobody draws from a stream before a later epoch, which it can then not count.

    Args:
        graph: the graph.
        stream: of the graph.
        epoch: that stands.

    Returns:
        Whether it is so.
    """
    return not any(_draws(graph, n, epoch) for n in graph.nodes if stream in n.streams)


def check_epochs(
    graph: Graph, streams: Sequence[Stream], counting: Stream | None, epoch: int = 0
) -> None:
    """What goes by epochs needs data to count them by.

    Args:
        graph: the graph.
        streams: all that it reads.
        counting: the one that counts epochs, if there is one before a run names another.
        epoch: that stands.

    Raises:
        GraphError: a start would never come, or a scheduler would never be stepped.
    """
    never = counting is None or still(graph, counting, epoch)
    for p in graph.problems:
        if p.start > epoch and never:
            nobody = "no problem that begins at once has data to count them by."
            if counting is not None:
                nobody = (
                    "nobody draws the data that they are counted by before it comes. Leave it as "
                    "it was, or count by other data: run(epoch=...)."
                )
            raise GraphError(f"{p.name}: start={p.start} counts epochs, and {nobody}")
        by_epochs = p.scheduler is not None and not isinstance(p.scheduler, PerStep)
        if by_epochs and not streams:
            raise GraphError(
                f"{p.name}: its scheduler is stepped after each epoch, and nothing here has data "
                "to count epochs by. Give scheduler=PerStep(...), to step it once in each step of "
                "the engine that updates its problem."
            )
