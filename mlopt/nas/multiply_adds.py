"""What a network costs: multiply-adds of one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["multiply_adds"]


def multiply_adds(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image.

    They are those of one pass in evaluation mode, so without the auxiliary head. Normalisation,
    activations and pooling are not counted; papers that count them give larger numbers. Nothing is
    computed: the pass only follows shapes.

    Args:
        network: called as `network(x)`; its mode is restored.
        image_shape: (C, H, W).

    Example:
        >>> from mlopt.nas import GENOTYPES, EvaluationNetwork
        >>> multiply_adds(EvaluationNetwork(GENOTYPES["DARTS_V2"]), (3, 32, 32))
        528359040
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in shapes.values() if t.is_floating_point()), None)
    x = torch.empty(1, *image_shape, device="meta", dtype=dtype)
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, shapes, (x,))
    finally:
        network.train(training)
    return counter.get_total_flops() // 2
