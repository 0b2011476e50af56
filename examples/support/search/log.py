"""What a search writes into its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlopt
from mlopt.data import ImageData
from mlopt.generators import sample_grid, save_grid
from mlopt.report import RunFolder

from ..ranks import is_first
from .count import Count
from .measures import mixtures
from .search import Search


class Log(mlopt.Callback):
    """Writes a search into its run folder; steps and epochs count over all stages.

    Where a run goes on from a checkpoint, what was logged after it is taken back, and logged again.

    Args:
        search: the stage.
        folder: of the run.
        data: that is searched with.
        count: of the stage.

    Attributes:
        logged: up to where the folder's log is that of this run.
        between: seconds and passes of the search that were spent between epochs.
    """

    def __init__(self, search: Search, folder: RunFolder, data: ImageData, count: Count) -> None:
        self.search, self.folder, self.data, self.count = search, folder, data, count
        self.epochs = search.before + search.epochs
        self.logged = search.spent.logged
        self.between, self.left = search.spent.between, self._spent()
        self.planned: dict[str, int] = {}
        self.updated: set[str] = set()
        self.beside: Mapping[str, Any] = {}  # how far the folder's other loggers were

    def on_start(self, engine: mlopt.Engine) -> None:
        # Of a stage that is over, what follows is that of later ones, and of retraining.
        if engine.epoch < self.epochs and not engine.stopping:
            self.folder.cut(self.logged)
            self.folder.loggers.load_state_dict(self.beside)
            self._plan(engine)

    def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        row = {k: v for k, v in metrics.items() if not k.startswith("signal/")}
        if "signal/class_losses" in metrics:
            row["class_losses"] = metrics["signal/class_losses"]
        gradients = [key for key in row if key.endswith("/gradient_norm")]
        self.updated.update(key.removesuffix("/gradient_norm") for key in gradients)
        self.left = seconds, passes = self._spent()
        taken = {"seconds": seconds, "passes": passes}
        taken |= {"between_seconds": self.between[0], "between_passes": self.between[1]}
        self._write("search", engine, {**taken, **row, **_rates(engine)})

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        last = engine.epoch == self.epochs
        due = last or engine.epoch % max(1, self.epochs // 6) == 0
        if self.search.generator is not None and due and is_first():
            images = sample_grid(self.search.generator, self.data.classes, 10, seed=0)
            epoch = self.search.spent.epochs + engine.epoch
            path = self.folder.path(f"samples/epoch_{epoch:04d}.png")
            save_grid(images, path, per_row=10, scale=max(1, 32 // images.shape[-1]))
            place = {"phase": "search", "step": self.search.spent.steps + engine.steps}
            grid = images.unflatten(0, (-1, 10)).permute(2, 0, 3, 1, 4)  # a row for each class
            self.folder.loggers.log_image(place, "samples", grid.flatten(3).flatten(1, 2))

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        shown = {**self._trained(engine), **mixtures(self.search.learners)}
        self._write("search-epoch", engine, {**metrics, **shown})
        self._plan(engine)
        (seconds, passes), now = self.between, self._spent()
        self.between = seconds + now[0] - self.left[0], passes + now[1] - self.left[1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "logged": self.logged,
            "beside": self.folder.loggers.state_dict(),
            "planned": self.planned,
            "updated": sorted(self.updated),
            "between_seconds": self.between[0],
            "between_passes": self.between[1],
            "left_seconds": self.left[0],
            "left_passes": self.left[1],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logged, self.beside = state["logged"], state["beside"]
        self.planned, self.updated = dict(state["planned"]), set(state["updated"])
        self.between = state["between_seconds"], state["between_passes"]
        self.left = state["left_seconds"], state["left_passes"]

    def _trained(self, engine: mlopt.Engine) -> dict[str, bool]:
        """Of each learner whether its classifier has been updated; before that it guesses."""
        labels, found = engine.graph.labels, {}
        for learner in self.search.learners:
            over = [
                labels[problem]
                for problem in engine.graph.problems
                if any(variable.value is learner.classifier for variable in problem.over)
            ]
            if over:
                found[learner.key("trained")] = not self.updated.isdisjoint(over)
        return found

    def _spent(self) -> tuple[float, int]:
        """Seconds and passes of the search up to now."""
        spent = self.search.spent
        return spent.seconds + self.count.seconds, spent.passes + int(self.count.passes)

    def _plan(self, engine: mlopt.Engine) -> None:
        """Write what the next steps cost, if that has changed."""
        plan = engine.plan()
        cost = {"evaluations": plan.evaluations, "backwards": plan.backwards}
        if cost != self.planned:
            self.planned = cost
            self._write("plan", engine, cost)

    def _write(self, phase: str, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        spent, (stage, stages) = self.search.spent, self.search.stage
        if stages > 1:
            metrics = {"stage": stage, **metrics}
        self.folder.log(
            phase, step=spent.steps + engine.steps, epoch=spent.epochs + engine.epoch, **metrics
        )
        self.logged = self.folder.logged


def _rates(engine: mlopt.Engine) -> dict[str, float]:
    """The learning rate of each problem, or those of its groups of parameters, if they differ."""
    found = {}
    for problem in engine.graph.problems:
        groups = problem.optimizer.param_groups if problem.optimizer is not None else []
        rates = dict.fromkeys(float(group["lr"]) for group in groups)
        name = f"{engine.graph.labels[problem]}/lr"
        for place, rate in enumerate(rates, start=1):
            found[name if len(rates) == 1 else f"{name} {place}"] = rate
    return found
