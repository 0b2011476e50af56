"""What accompanies a search: networks that follow the epochs, alarms, and the log."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlopt
from measuring import MONITOR, Learner
from mlopt.data import ImageData
from mlopt.generators import ExponentialAverage, sample_grid, save_grid
from mlopt.nas import Alarm, Supernet
from mlopt.report import RunFolder

if TYPE_CHECKING:
    from searching import Search


class Epochs(mlopt.Callback):
    """Tells every supernet of a search, those inside other networks too, which epoch begins.

    Epochs count from the first of the search proper; those before it are as its first.

    Args:
        search: whose networks are told.
        warmup: first epochs of the search that do not update the architecture.
    """

    def __init__(self, search: Search, warmup: int) -> None:
        self.search, self.warmup = search, warmup

    def on_start(self, engine: mlopt.Engine) -> None:
        self._begin(engine)

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self._begin(engine)  # only now: the last epoch was validated as it was trained

    def _begin(self, engine: mlopt.Engine) -> None:
        epoch = max(0, engine.epoch - self.search.before)
        if epoch >= self.search.epochs:
            return
        for network in self.search.networks:
            for module in network.modules():
                if isinstance(module, Supernet):
                    module.begin_epoch(epoch, self.search.epochs, self.warmup)


class Follow(mlopt.Callback):
    """Takes the generator of every step into its average.

    Args:
        average: of the generator.
    """

    def __init__(self, average: ExponentialAverage) -> None:
        self.average = average

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        if engine.skipped is None:
            self.average.update()


class Watch(mlopt.Callback):
    """Raises the alarms of a search, into its log; a collapse of the normal cell may end it.

    The architectures are then set back to the last epoch without an alarm of that kind.

    Args:
        search: what is watched.
        warmup: first epochs of the search that do not update the architecture.
        stop: whether to end the search (of this stage) at the first collapse.
    """

    def __init__(self, search: Search, warmup: int, stop: bool) -> None:
        self.search, self.stop = search, stop
        self.first = search.before + warmup
        self.kept: tuple[int, list[dict[str, Any]], dict[str, float]] | None = None

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        found = self._alarms(metrics) if engine.epoch > self.first else []
        metrics["alarms"] = [alarm.text for alarm in found]
        if not self.stop or engine.epoch <= self.first:
            return
        learners = self.search.learners
        collapse = next((alarm.text for alarm in found if alarm.kind == "skips"), None)
        if collapse is not None:
            self._end(engine, learners, collapse)
        else:
            states = [copy.deepcopy(x.architecture.state_dict()) for x in learners]
            self.kept = engine.epoch, states, dict(self.search.validation)

    def _alarms(self, metrics: dict[str, Any]) -> list[Alarm]:
        """Of all learners, each with its name before the text."""
        found = []
        for learner in self.search.learners:
            own = {name: metrics.get(learner.key(name), math.nan) for name in _SIGNS}
            prefix = f"{learner.title}: " if learner.title else ""
            found += [Alarm(kind, prefix + text) for kind, text in MONITOR.alarms(own)]
        return found

    def _end(self, engine: mlopt.Engine, learners: Sequence[Learner], why: str) -> None:
        spent = self.search.spent
        note = f"The search ended early, after epoch {spent.epochs + engine.epoch}: {why}."
        if self.kept is None:
            note += " There was no epoch without that, so the result is that of this epoch."
        else:
            epoch, states, self.search.validation = self.kept
            for learner, state in zip(learners, states, strict=True):
                learner.architecture.load_state_dict(state)
            note += f" The result is that of epoch {spent.epochs + epoch}."
        spent.notes.append(note)
        engine.stop()


_SIGNS = ("skips/normal", "none/normal", "entropy/normal", "gap")


class Log(mlopt.Callback):
    """Writes a search into its run folder; steps and epochs count over all stages."""

    def __init__(self, search: Search, folder: RunFolder, data: ImageData) -> None:
        self.search, self.folder, self.data = search, folder, data
        self.began = time.perf_counter()
        self.epochs = search.before + search.epochs

    def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        row = {k: v for k, v in metrics.items() if not k.startswith("signal/")}
        if "signal/class_losses" in metrics:
            row["class_losses"] = metrics["signal/class_losses"]
        seconds = self.search.spent.seconds + time.perf_counter() - self.began
        self._write("search", engine, {"seconds": seconds, **row})

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        last = engine.epoch == self.epochs
        if self.search.generator is not None and (
            last or engine.epoch % max(1, self.epochs // 6) == 0
        ):
            images = sample_grid(self.search.generator, self.data.classes, 10, seed=0)
            epoch = self.search.spent.epochs + engine.epoch
            path = self.folder.path(f"samples/epoch_{epoch:04d}.png")
            save_grid(images, path, per_row=10, scale=max(1, 32 // images.shape[-1]))

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self._write("search-epoch", engine, metrics)

    def _write(self, phase: str, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        spent, (stage, stages) = self.search.spent, self.search.stage
        if stages > 1:
            metrics = {"stage": stage, **metrics}
        self.folder.log(
            phase, step=spent.steps + engine.steps, epoch=spent.epochs + engine.epoch, **metrics
        )
