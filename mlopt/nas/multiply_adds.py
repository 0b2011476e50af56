"""What a network costs: multiply-adds of one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlopt._arguments import checked, from_one
from mlopt._errors import SettingsError

__all__ = ["multiply_adds"]


@checked(SettingsError, image_shape=from_one)
def multiply_adds(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image.

    They are those of one pass in evaluation mode, so without the auxiliary head. Normalisation,
    activations and pooling are not counted; papers that count them give larger numbers. The pass of
    an image of zeros is made: to follow shapes alone, as a network on the device "meta" does, takes
    longer.

    Args:
        network: called as `network(x)`; its mode is restored.
        image_shape: (C, H, W).

    Raises:
        SettingsError: if the shape is another one.

    Example:
        >>> from mlopt.nas import GENOTYPES, EvaluationNetwork
        >>> multiply_adds(EvaluationNetwork(GENOTYPES["DARTS_V2"]), (3, 32, 32))
        528359040
    """
    if len(image_shape) != 3:
        raise SettingsError(f"multiply_adds: image_shape={tuple(image_shape)} must be (C, H, W).")
    tensors = itertools.chain(network.parameters(), network.buffers())
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    x = like.new_zeros((1, *image_shape))
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
    finally:
        network.train(training)
    return counter.get_total_flops() // 2
