"""The loop of `Engine.run`: steps, logging, validation, callbacks, the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .._graph.stream import Stream
from .stepper import Stepper

__all__ = ["Loop"]

#: Signals with more numbers than this are not logged.
_LOGGED = 1024


class Loop:
    """One call of `Engine.run`.

    Args:
        engine: takes the steps.
        tell: (hook, arguments): calls the hook of every observer.
        stopping: whether one of them has ended the run.
        validate: as of `Engine.run`.
        validate_every: likewise.
        log_every: likewise.
    """

    def __init__(
        self,
        engine: Stepper,
        tell: Callable[..., None],
        stopping: Callable[[], bool],
        validate: Callable[[], dict[str, Any]] | None,
        validate_every: int,
        log_every: int,
    ) -> None:
        self.engine = engine
        self.tell, self.stopping = tell, stopping
        self.validate = validate
        self.validate_every = validate_every
        self.log_every = log_every

    def run(
        self, steps: int | None, epochs: int | None, stream: Stream | None, progress: bool
    ) -> None:
        """Take steps until there are enough, or a callback stops the engine.

        Args:
            steps: how many, or None.
            epochs: how many, or None.
            stream: that counts epochs.
            progress: show a bar.
        """
        engine = self.engine
        last_step = None if steps is None else engine.steps + steps
        last_epoch = None if epochs is None else engine.epoch + epochs
        if (
            steps is None
            and epochs is not None
            and stream is not None
            and stream.length is not None
        ):
            steps = epochs * stream.length
        bar = tqdm(total=steps, disable=not progress, unit="step")
        try:
            self.tell("on_start")
            while not (self.stopping() or engine.steps == last_step):
                if last_epoch is not None and engine.epoch >= last_epoch:
                    break
                self._step(bar)
        finally:
            bar.close()
            self.tell("on_end")

    def _step(self, bar: Any) -> None:
        engine, before = self.engine, self.engine.epoch
        metrics = engine.step()
        bar.update()
        if engine.skipped is not None:
            self.tell("on_skip", engine.skipped)
        self.tell("on_step", metrics)
        ended = engine.epoch > before
        if engine.steps % self.log_every == 0 or ended:
            signals = {f"signal/{k}": v for k, v in engine.signals.items()}
            numbers = _numbers({**metrics, **signals})
            top = f"{engine.graph.labels[engine.graph.problems[-1]]}/loss"
            loss = f", {top} {numbers[top]:.4g}" if top in numbers else ""
            bar.set_postfix_str(f"epoch {engine.epoch}{loss}", refresh=False)
            self.tell("on_log", numbers)
        if ended:
            self.tell("on_epoch", dict(engine.clock.means))
            if self.validate is not None and engine.epoch % self.validate_every == 0:
                self.tell("on_validation", self.validate())


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Tensors as numbers, small vectors as lists; larger ones and pictures are left out."""
    out: dict[str, Any] = {}
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            if not isinstance(value, dict):
                out[name] = value
        elif value.dim() == 0:
            out[name] = value.item()
        elif value.dim() == 1 and value.numel() <= _LOGGED:
            out[name] = value.tolist()
    return out
