"""The network of a genotype, as it is trained from scratch."""

from __future__ import annotations

from functools import cache
from typing import Any

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
    """The network of a genotype for these images, as the settings want it.

    It computes in bfloat16 if the search did. In fp16 its gradients would want a loss scale, which
    is an engine's, and no engine trains it: then it computes in float32.
    """
    kind, *arguments, auxiliary = _form(genotype, data, s)
    network = kind(*arguments, auxiliary=auxiliary)
    network.autocast = torch.bfloat16 if s.precision == "bf16" else None
    return network


def size(genotype: Genotype, data: ImageData, s: Settings) -> Row:
    """Parameters and multiply-adds of that network, without its auxiliary head.

    Raises:
        SettingsError: the images do not suit the network.
    """
    return dict(_size(_form(genotype, data, s), data.image_size))


def _form(genotype: Genotype, data: ImageData, s: Settings) -> tuple[Any, ...]:
    """The kind of network and its arguments, of which the last one is `auxiliary`."""
    large = s.eval_form == "imagenet" or (s.eval_form == "auto" and data.name == "imagenet")
    kind = ImageNetNetwork if large else EvaluationNetwork
    sizes = s.eval_channels, s.eval_cells, data.classes, data.channels
    return kind, genotype, *sizes, s.auxiliary > 0


@cache  # a run asks before it starts and when it is done
def _size(form: tuple[Any, ...], image_size: int) -> Row:
    kind, *arguments, auxiliary = form
    *_, channels = arguments
    shape = channels, image_size, image_size
    with torch.device("meta"):  # shapes alone
        network = kind(*arguments, auxiliary=auxiliary)
        network(torch.empty(2, *shape))
    return {"parameters": count_parameters(network), "multiply_adds": multiply_adds(network, shape)}
