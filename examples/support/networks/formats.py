"""Networks on their device, in the formats that the settings want."""

from __future__ import annotations

from typing import TypeVar

import torch

from mlopt.data import ImageData
from mlopt.nas import MixedPrecision, SearchSpace, Supernet

from ..settings import Settings

Network = TypeVar("Network", bound=MixedPrecision)


def supernet(space: SearchSpace, data: ImageData, s: Settings) -> Supernet:
    """A new network of the space for these images, on its device."""
    return prepared(space.supernet(data.classes, data.channels), s)


def prepared(network: Network, s: Settings) -> Network:
    """A network on its device, in the memory format and the number format of the settings."""
    network.to(s.device)
    if s.channels_last:
        network.to(memory_format=torch.channels_last)
    network.autocast = torch.bfloat16 if s.bf16 else None
    return network
