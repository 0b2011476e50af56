"""The conditional BigGAN discriminator."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from mlopt._arguments import checked, from_one
from mlopt._errors import SettingsError
from mlopt.generators._biggan import check_attention, row
from mlopt.generators._dcgan import check_images, check_labels
from mlopt.generators.attention import SelfAttention
from mlopt.generators.initialization import Init, initialize
from mlopt.generators.spectral import spectral_normalize

__all__ = ["BigGANDiscriminator"]

# image size -> (channels of each block's output, in units of `width`; how many blocks, the first
# ones, halve the side). 8 and 28 are not in the paper: the 32-pixel network for smaller maps.
_TABLE = {
    8: ((4, 4, 4), 1),
    28: ((4, 4, 4, 4), 2),
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


class BigGANDiscriminator(nn.Module):
    """Residual blocks to a feature vector h, and a projection on the class.

        h_i+1 = down(conv3(ReLU(conv3(ReLU(h_i))))) + conv1(down(h_i))      no ReLU on the images
        h     = sum over places of ReLU(h_n)
        logit(x, y) = linear(h) + <embedding(y), h>

    `down` averages 2x2 places, in the first blocks; the others keep the side, and their shortcut
    is the identity. There is no BatchNorm: samples of a batch do not see each other, so a penalty
    per sample may be used.

    Widths at 32 to 512 pixels are the authors'. At 28 pixels it is the 32-pixel network, whose maps
    are then 14 and 7 wide; at 8 pixels one block halves and two keep the side.

    Args:
        image_size: side of the images: 8, 28, 32, 64, 128, 256 or 512.
        channels: channels of the images.
        classes: number of classes.
        width: unit of the blocks' channels, from 1 to 16 of it each; at 32 pixels, 4.
        wide: whether the channels between the two convolutions of a block are those of its output,
            as the authors have it, or those of its input.
        attention: sides of feature maps after which a `SelfAttention` comes, at each block of that
            output side.
        init: how weights start, see `initialize`.
        spectral_norm: normalise all convolutions, linear maps and embeddings, see
            `spectral_normalize`.

    Raises:
        SettingsError: `image_size` or `init` is not supported, a number is smaller than 1, or no
            block has a side given in `attention`.

    Reference: Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image
    synthesis", ICLR 2019; projection: Miyato, Koyama, "cGANs with projection discriminator", ICLR
    2018.
    """

    @checked(SettingsError, channels=from_one, classes=from_one, width=from_one)
    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int,
        width: int = 64,
        *,
        wide: bool = True,
        attention: Collection[int] = (),
        init: Init = "normal",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        where = "BigGANDiscriminator"
        units, halvings = row(_TABLE, image_size, where)
        widths = [channels, *(width * unit for unit in units)]
        sides = [image_size // 2 ** min(k + 1, halvings) for k in range(len(units))]
        check_attention(attention, sides, where)
        self.image_size, self.channels, self.classes = image_size, channels, classes
        layers: list[nn.Module] = []
        for k, side in enumerate(sides):
            layers.append(_Block(widths[k], widths[k + 1], k < halvings, k == 0, wide))
            if side in attention:
                layers.append(SelfAttention(widths[k + 1]))
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1], 1)
        self.embedding = nn.Embedding(classes, widths[-1])
        initialize(self, init)
        if spectral_norm:
            spectral_normalize(self, embeddings=True)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Judge images of given classes.

        Args:
            x: images, (B, channels, image_size, image_size).
            labels: class indices, (B,).

        Returns:
            Logits, (B,): positive means real.

        Raises:
            DataError: the images have another shape, or the labels are not class indices (their
                range is checked on the CPU alone).
        """
        check_labels(labels, self.classes, "BigGANDiscriminator")
        check_images(x, labels, self.channels, self.image_size, "BigGANDiscriminator")
        h = relu(self.layers(x)).sum(dim=(2, 3))
        return self.linear(h).squeeze(1) + (self.embedding(labels) * h).sum(dim=1)


class _Block(nn.Module):
    """One residual block, which may halve the side."""

    def __init__(self, before: int, after: int, down: bool, first: bool, wide: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        hidden = after if wide else before
        self.conv1 = nn.Conv2d(before, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, after, 3, padding=1)
        same = before == after and not down
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        if not self.down:
            return h + self.shortcut(x)
        # A 1x1 convolution and a mean commute; the smaller map is convolved.
        return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))
