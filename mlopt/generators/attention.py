"""Self-attention between the places of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from mlopt._arguments import checked, from_one
from mlopt._errors import SettingsError
from mlopt.generators._dcgan import check_map

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Each place of a feature map reads from all others.

        out = x + gamma * o( sum_j softmax_j( <theta(x)_i, phi(x)_j> ) g(x)_j )

    theta and phi have an eighth of the channels, g a half; all are 1x1 convolutions without bias.
    phi(x) and g(x) are pooled 2x2 by maximum, so that j runs over a quarter of the places. gamma
    begins at zero: the module begins as the identity.

    The softmax is written out, because torch's fused attention has no second derivative. Do not use
    it at a side above 64: its memory grows with the fourth power of the side.

    Args:
        channels: of the feature map; below 8, theta and phi have one channel.

    Raises:
        SettingsError: `channels` is smaller than 1.

    Reference: Zhang, Goodfellow, Metaxas, Odena, "Self-attention generative adversarial networks",
    ICML 2019, with the pooling of Brock et al., ICLR 2019.
    """

    @checked(SettingsError, channels=from_one)
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = nn.Conv2d(channels, narrow, 1, bias=False)
        self.phi = nn.Conv2d(channels, narrow, 1, bias=False)
        self.g = nn.Conv2d(channels, half, 1, bias=False)
        self.o = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Args:
            x: features, (B, channels, H, W), H and W at least 2.

        Returns:
            Features of the same shape.

        Raises:
            DataError: x is no such tensor.
        """
        check_map(x, self.theta.in_channels, "SelfAttention")
        theta = self.theta(x).flatten(2)
        phi = max_pool2d(self.phi(x), 2).flatten(2)
        g = max_pool2d(self.g(x), 2).flatten(2)
        weights = (theta.transpose(1, 2) @ phi).softmax(dim=-1)  # (B, places, places / 4)
        mixed = g @ weights.transpose(1, 2)
        return x + self.gamma * self.o(mixed.unflatten(2, x.shape[2:]))
