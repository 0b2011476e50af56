"""Networks on their device, in the memory format that the settings want."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from mlopt.data import ImageData
from mlopt.nas import SearchSpace, Supernet

from ..settings import Settings

Network = TypeVar("Network", bound=nn.Module)


def supernet(space: SearchSpace, data: ImageData, s: Settings) -> Supernet:
    """A new network of the space for these images, on its device."""
    return prepared(space.supernet(data.classes, data.channels), s)


def prepared(network: Network, s: Settings) -> Network:
    """A network on its device, in the memory format of the settings.

    Nothing is said of numbers: in a search the engine alone decides what is computed in which.
    """
    network.to(s.device)
    if s.channels_last:
        network.to(memory_format=torch.channels_last)
    return network
