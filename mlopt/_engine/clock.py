"""What goes on between steps: schedulers, and the mean losses of an epoch."""

from __future__ import annotations

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._graph.graph import Graph
from .._graph.problem import PerStep, Problem
from .outcome import Outcome

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

    def after_step(self, outcome: Outcome, *, epochs: bool, ended: bool) -> None:
        """Count a step; at an epoch's end step its schedulers and take the means.

        Args:
            outcome: of the step.
            epochs: whether there are any to take means over.
            ended: whether an epoch ended with it.
        """
        for problem in self.graph.problems:
            if problem not in outcome.updated:
                continue
            if epochs:
                loss = outcome.metrics[f"{self.graph.labels[problem]}/loss"]
                self._sums[problem] = self._sums[problem] + loss if problem in self._sums else loss
                self._counts[problem] = self._counts.get(problem, 0) + 1
            if isinstance(problem.scheduler, PerStep):
                problem.scheduler.scheduler.step()
        if ended:
            means = {p: s.item() / self._counts[p] for p, s in self._sums.items()}
            for problem in means:
                if isinstance(problem.scheduler, ReduceLROnPlateau):
                    problem.scheduler.step(means[problem])
                elif problem.scheduler is not None and not isinstance(problem.scheduler, PerStep):
                    problem.scheduler.step()
            self.means = {f"{self.graph.labels[p]}/loss": m for p, m in means.items()}
            self._sums.clear()
            self._counts.clear()
