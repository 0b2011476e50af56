"""The network of a genotype, as it is trained from scratch."""

from __future__ import annotations

import torch

from mlopt.data import ImageData
from mlopt.nas import (
    EvaluationNetwork,
    Genotype,
    ImageNetNetwork,
    count_parameters,
    multiply_adds,
)

from ..results import Row
from ..settings import Settings


def build(genotype: Genotype, data: ImageData, s: Settings) -> EvaluationNetwork | ImageNetNetwork:
    """The network of a genotype for these images, as the settings want it."""
    large = s.eval_form == "imagenet" or (s.eval_form == "auto" and data.name == "imagenet")
    kind = ImageNetNetwork if large else EvaluationNetwork
    return kind(
        genotype,
        s.eval_channels,
        s.eval_cells,
        data.classes,
        data.channels,
        auxiliary=s.auxiliary > 0,
    )


def size(genotype: Genotype, data: ImageData, s: Settings) -> Row:
    """Parameters and multiply-adds of that network, without its auxiliary head.

    Raises:
        SettingsError: the images do not suit the network.
    """
    shape = (data.channels, data.image_size, data.image_size)
    with torch.device("meta"):  # shapes alone
        network = build(genotype, data, s)
        network(torch.empty(2, *shape))
    return {"parameters": count_parameters(network), "multiply_adds": multiply_adds(network, shape)}
