"""What goes on between steps: schedulers, and the mean losses of an epoch."""

from __future__ import annotations

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._graph.graph import Graph
from .._graph.problem import PerStep, Problem
from .outcome import Outcome
from .transaction import Transaction

__all__ = ["Clock"]


class Clock:
    """Steps the users' schedulers, and keeps each problem's mean loss over the running epoch.

    A scheduler is stepped only if its problem was updated: torch warns of the contrary.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.means: dict[str, float] = {}
        self._sums: dict[Problem, Tensor] = {}
        self._counts: dict[Problem, int] = {}

    def after_step(
        self, outcome: Outcome, transaction: Transaction, *, epochs: bool, ended: bool
    ) -> None:
        """Count a step; at an epoch's end step its schedulers and take the means.

        Args:
            outcome: of the step.
            transaction: of which all this is a part.
            epochs: whether there are any to take means over.
            ended: whether an epoch ended with it.
        """
        transaction.memory.keep_attributes(self, "means", "_sums", "_counts")
        sums, counts = self._sums.copy(), self._counts.copy()
        for problem in self.graph.problems:
            if problem not in outcome.updated:
                continue
            if epochs:
                loss = outcome.metrics[f"{self.graph.labels[problem]}/loss"]
                sums[problem] = sums[problem] + loss if problem in sums else loss
                counts[problem] = counts.get(problem, 0) + 1
            if isinstance(problem.scheduler, PerStep):
                transaction.schedule(problem)
        if ended:
            means = {p: s.item() / counts[p] for p, s in sums.items()}
            for problem in means:
                if isinstance(problem.scheduler, ReduceLROnPlateau):
                    transaction.schedule(problem, means[problem])
                elif problem.scheduler is not None and not isinstance(problem.scheduler, PerStep):
                    transaction.schedule(problem)
            self.means = {f"{self.graph.labels[p]}/loss": m for p, m in means.items()}
            sums, counts = {}, {}
        self._sums, self._counts = sums, counts
