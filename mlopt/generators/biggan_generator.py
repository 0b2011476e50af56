"""The conditional BigGAN generator."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from mlopt._arguments import checked, from_one
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.generators._biggan import check_attention, row
from mlopt.generators._generator import ConditionalGenerator
from mlopt.generators.attention import SelfAttention
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm
from mlopt.generators.initialization import Init, initialize
from mlopt.generators.spectral import spectral_normalize

__all__ = ["BigGANGenerator"]

# image size -> (side of the first feature map; channels of it and of each block's output, in units
# of `width`). 8 and 28 are not in the paper: the 32-pixel network with fewer blocks.
_TABLE = {
    8: (4, (4, 4)),
    28: (7, (4, 4, 4)),
    32: (4, (4, 4, 4, 4)),
    64: (4, (16, 16, 8, 4, 2)),
    128: (4, (16, 16, 8, 4, 2, 1)),
    256: (4, (16, 16, 8, 8, 4, 2, 1)),
    512: (4, (16, 16, 8, 8, 4, 2, 1, 1)),
}


class BigGANGenerator(ConditionalGenerator):
    """Residual blocks, told the class by conditional BatchNorm, from noise to an image.

        h_0   = linear(z_0)                                           a map of side 4 (7 for 28)
        h_i+1 = conv3(ReLU(cBN(conv3(up(ReLU(cBN(h_i, y_i)))), y_i))) + conv1(up(h_i))
        image = tanh(conv3(ReLU(BN(h_n)))),                           z ~ N(0, 1)

    `up` doubles the side by repetition. Without `shared`, y_i is the label, and each conditional
    BatchNorm (cBN) has its own embeddings. With it, y_i is one class embedding for all blocks.
    With `hierarchical`, the noise is cut into as many equal parts as there are blocks and one more:
    z_0 begins the network and the others are appended to y_i.

    The defaults are the authors' settings for CIFAR; theirs for ImageNet at 128 pixels are z=120,
    width=96, shared=128, hierarchical=True, attention=(64,), init="orthogonal". Widths at 32 to
    512 pixels are theirs. At 28 pixels the map of 7x7 doubles twice, at 8 pixels that of 4x4 once,
    with the width of the 32-pixel network.

    Do not use it in training mode with batches of one or two images: BatchNorm needs more.

    Args:
        image_size: side of the images: 8, 28, 32, 64, 128, 256 or 512.
        channels: channels of the images.
        classes: number of classes.
        z: numbers of noise per image. Hierarchical, it is rounded down to equal parts: the
            attribute `z` is what is used.
        width: unit of the blocks' channels, from 1 to 16 of it each; at 32 pixels, 4.
        shared: length of the class embedding that all blocks share; None for embeddings of their
            own.
        hierarchical: whether each block gets its own part of the noise; needs `shared`.
        attention: sides of feature maps after which a `SelfAttention` comes.
        init: how weights start, see `initialize`.
        spectral_norm: normalise all convolutions and linear maps, see `spectral_normalize`.

    Raises:
        SettingsError: `image_size` or `init` is not supported, a number is smaller than 1, no block
            has a side given in `attention`, or `hierarchical` comes without `shared` or with less
            noise than parts.

    Reference: Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image
    synthesis", ICLR 2019.
    """

    @checked(
        SettingsError,
        channels=from_one,
        classes=from_one,
        z=from_one,
        width=from_one,
        shared=from_one,
    )
    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int,
        z: int = 128,
        width: int = 64,
        *,
        shared: int | None = None,
        hierarchical: bool = False,
        attention: Collection[int] = (),
        init: Init = "normal",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        where = "BigGANGenerator"
        start, units = row(_TABLE, image_size, where)
        if hierarchical and shared is None:
            raise SettingsError(
                f"{where}: hierarchical=True appends noise to the shared class embedding, and "
                "there is none; give its length, such as shared=128."
            )
        widths = [width * unit for unit in units]
        blocks = len(widths) - 1
        sides = [start * 2**k for k in range(1, blocks + 1)]
        check_attention(attention, sides, where)
        slots = blocks + 1 if hierarchical else 1
        if z < slots:
            raise SettingsError(
                f"{where}: z={z} gives no noise to each of the {slots} parts; give {slots} or more."
            )
        self.image_size, self.channels, self.classes = image_size, channels, classes
        self.hierarchical, self._part = hierarchical, z // slots
        self.z = self._part * slots
        self.embedding = nn.Embedding(classes, shared) if shared is not None else None
        features = None if shared is None else shared + (self._part if hierarchical else 0)
        self.linear = nn.Linear(self._part, widths[0] * start**2)
        self.start = (widths[0], start, start)
        self.blocks = nn.ModuleList(
            _Block(before, after, classes, features)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.attention = nn.ModuleDict(
            {
                str(k): SelfAttention(widths[k + 1])
                for k, side in enumerate(sides)
                if side in attention
            }
        )
        self.norm = BatchNorm2d(widths[-1])
        self.image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        initialize(self, init)
        if spectral_norm:
            spectral_normalize(self)

    def _draw(self, labels: Tensor, z: Tensor) -> Tensor:
        first, *rest = z.split(self._part, dim=1)
        y = labels if self.embedding is None else self.embedding(labels)
        h = self.linear(first).unflatten(1, self.start)
        for k, block in enumerate(self.blocks):
            h = block(h, torch.cat([y, rest[k]], dim=1) if self.hierarchical else y)
            if str(k) in self.attention:
                h = self.attention[str(k)](h)
        return torch.tanh(self.image(relu(self.norm(h))))

    def _like(self) -> Tensor:
        return self.linear.bias  # a weight would be normalised anew by looking at it


class _Block(nn.Module):
    """One residual block that doubles the side."""

    def __init__(self, before: int, after: int, classes: int, features: int | None) -> None:
        super().__init__()

        def norm(channels: int) -> ConditionalBatchNorm:
            if features is None:
                return ConditionalBatchNorm(channels, classes=classes)
            return ConditionalBatchNorm(channels, features=features)

        self.norm1, self.norm2 = norm(before), norm(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(_up(relu(self.norm1(x, y))))
        h = self.conv2(relu(self.norm2(h, y)))
        # A 1x1 convolution and a repetition commute; the smaller map comes first.
        return h + _up(self.shortcut(x))


def _up(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="nearest")
