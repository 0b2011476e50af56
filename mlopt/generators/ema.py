"""A running average of a network, for sampling and evaluation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mlopt._arguments import checked, from_zero, within
from mlopt._errors import SettingsError

__all__ = ["ExponentialAverage"]


class ExponentialAverage:
    """The exponential moving average of a network's parameters and buffers.

        update k = 0, 1, ...:    average <- value                                   for k < start
                                 average <- decay * average + (1 - decay) * value   from then on

    Entries that are not floating-point numbers, such as counts, are copied. Vectors of a spectral
    norm are averaged too, and then take one step of the power iteration: an average of unit vectors
    is no unit vector, and would make the weights too large.

    Call `update` after each step: in a loop of your own, or in a callback's `on_step`. The network
    stays as it is.

    Args:
        module: the network to follow.
        decay: share of the average that is kept in an update, in [0, 1).
        start: how many updates copy the network before averaging begins.

    Raises:
        SettingsError: `decay` is not in [0, 1), or `start` is negative.

    Examples:
        >>> import torch
        >>> network = torch.nn.Linear(1, 1)
        >>> average = ExponentialAverage(network, decay=0.5)
        >>> with torch.no_grad():
        ...     _ = network.bias.fill_(1.0)
        >>> before = average.module.bias.item()
        >>> average.update()
        >>> average.module.bias.item() == (before + 1.0) / 2
        True

    Reference: Karras, Aila, Laine, Lehtinen, "Progressive growing of GANs for improved quality,
    stability, and variation", ICLR 2018; decay 0.9999 is from Brock et al., ICLR 2019.
    """

    @checked(SettingsError, decay=within("[0, 1)"), start=from_zero)
    def __init__(self, module: nn.Module, decay: float = 0.9999, start: int = 0) -> None:
        self.decay, self.start, self.updates = decay, start, 0
        self._source = module
        self._module = copy.deepcopy(module).eval().requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged network, in evaluation mode, without gradients."""
        return self._module

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present state into the average."""
        decay = self.decay if self.updates >= self.start else 0.0
        averages, values = _state(self._module), _state(self._source)
        mixed: list[tuple[Tensor, Tensor]] = []
        for average, value in zip(averages, values, strict=True):
            if decay and average.is_floating_point():
                mixed.append((average, value))
            else:
                average.copy_(value)
        if mixed:
            torch._foreach_lerp_([a for a, _ in mixed], [v for _, v in mixed], 1 - decay)
            _refresh(self._module)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state, and how many updates it has seen."""
        return {"module": self._module.state_dict(), "updates": self.updates}

    @checked(SettingsError)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave.

        Args:
            state: the state.

        Raises:
            SettingsError: it is not such a state.
        """
        if not {"module", "updates"} <= state.keys():
            raise SettingsError(
                f"ExponentialAverage.load_state_dict: the state has entries {sorted(state)}; give "
                "what state_dict() returned, with 'module' and 'updates'."
            )
        try:
            self._module.load_state_dict(state["module"])
        except (RuntimeError, TypeError) as error:
            raise SettingsError(
                f"ExponentialAverage.load_state_dict: the state is of another network: {error}"
            ) from error
        self.updates = state["updates"]


def _state(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once where tied, so that none is averaged twice."""
    return [*module.parameters(), *module.buffers()]


def _refresh(module: nn.Module) -> None:
    """One pass of every parametrization that keeps buffers, in training mode."""
    for part in module.modules():
        if not parametrize.is_parametrized(part):
            continue
        for name, parametrization in part.parametrizations.items():  # type: ignore[union-attr]
            if any(True for _ in parametrization.buffers()):
                training = parametrization.training
                parametrization.train()
                getattr(part, name)  # computed anew each time it is read
                parametrization.train(training)
