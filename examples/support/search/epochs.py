"""The epochs of a search, as its networks learn of them."""

from __future__ import annotations

from typing import Any

import mlopt
from mlopt.nas import Supernet

from .search import Search


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
