"""The WGAN-GP pairs: sizes, formulas, conditioning, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compare import exact, near, rounding
from torch import Tensor, nn

from mlopt._errors import DataError, SettingsError
from mlopt.generators import (
    WGANConvCritic,
    WGANConvGenerator,
    WGANResidualCritic,
    WGANResidualGenerator,
    gradient_penalty,
)

PAIRS = [(WGANConvGenerator, WGANConvCritic), (WGANResidualGenerator, WGANResidualCritic)]
GENERATORS, CRITICS = zip(*PAIRS, strict=True)
LABELS = torch.tensor([0, 1, 2, 2, 1])


def small(make: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    options = {"image_size": 8, "channels": 1, "classes": 3, "width": 4, **settings}
    return make(**options).double()


def images(count: int = 5, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(
        count, channels, size, size, generator=torch.Generator().manual_seed(1)
    ).double()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(pair, size, channels) -> None:
    g, h = (make(size, channels, 3, width=1) for make in pair)
    drawn = g(LABELS)
    assert drawn.shape == (5, channels, size, size)
    assert h(drawn, LABELS).shape == (5,)


def test_published_parameter_counts() -> None:
    """At 32 pixels: the convolutional pair without classes, the residual one with AC-GAN's head."""
    assert count(WGANConvGenerator(32, 3, classes=1)) == 5_179_907
    critic = WGANConvCritic(32, 3, classes=10, conditioning="auxiliary")
    assert count(critic) - count(critic.head.classifier) == 4_114_689
    assert count(WGANResidualGenerator(32, 3, 10)) == 1_218_307
    assert count(WGANResidualCritic(32, 3, 10, conditioning="auxiliary")) == 1_055_115
    # a projection instead of the classifier: one vector of 128 for each class
    assert count(WGANResidualCritic(32, 3, 10)) == 1_055_115 - 1_290 + 1_280


def conditional_norm(x: Tensor, part: Any, labels: Tensor) -> Tensor:
    """BatchNorm in training mode, and a gain and an offset, sample by sample."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (variance + 1e-5).sqrt()
    rows = [
        x[i] * (1 + part.gain.weight[y])[:, None, None] + part.offset.weight[y][:, None, None]
        for i, y in enumerate(labels.tolist())
    ]
    return torch.stack(rows)


def randomise(module: nn.Module) -> None:
    """Nothing is zero, so that nothing can be missing unseen."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))


def conv(x: Tensor, part: Any, **options: Any) -> Tensor:
    return F.conv2d(x, part.weight, part.bias, **options)


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def half(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_residual_generator_is_its_formula() -> None:
    g = small(WGANResidualGenerator, image_size=16, channels=2, z=5)
    randomise(g)
    z = torch.randn(5, 5, dtype=torch.float64)
    x = (z @ g.linear.weight.T + g.linear.bias).view(5, 4, 4, 4)
    for up in g.ups:
        h = conv(twice(conditional_norm(x, up.norm1, LABELS).relu()), up.conv1, padding=1)
        h = conv(conditional_norm(h, up.norm2, LABELS).relu(), up.conv2, padding=1)
        x = h + conv(twice(x), up.shortcut)
    assert len(g.ups) == 2
    x = F.batch_norm(x, None, None, g.norm.weight, g.norm.bias, training=True)
    expected = torch.tanh(conv(x.relu(), g.conv, padding=1))
    # In each block twice BatchNorm's two sums over the images' pixels and a sum over 3x3 of four
    # channels; a last time both. BatchNorm lets what came before grow by 1.2 each time.
    exact(g(LABELS, z), expected, rounding(5 * (2 * 5 * 256 + 36 + 20), condition=1.2**5))


def test_residual_critic_is_its_formula() -> None:
    h = small(WGANResidualCritic, image_size=32, channels=2)
    randomise(h)
    x = images(5, 2, 32)
    first, down, *plain = h.blocks
    y = half(conv(conv(x, first.conv1, padding=1).relu(), first.conv2, padding=1))
    y = y + conv(half(x), first.shortcut)
    z = half(conv(conv(y.relu(), down.conv1, padding=1).relu(), down.conv2, padding=1))
    y = z + half(conv(y, down.shortcut))
    for block in plain:
        y = y + conv(conv(y.relu(), block.conv1, padding=1).relu(), block.conv2, padding=1)
    assert y.shape[-1] == 8
    features = y.relu().mean((2, 3))
    expected = [
        f @ (h.head.linear.weight[0] + h.head.embedding.weight[c]) + h.head.linear.bias[0]
        for f, c in zip(features, LABELS.tolist(), strict=True)
    ]
    # Four blocks of two sums over 3x3 of four channels, means of four; a mean of 64 and the head.
    # What is summed has both signs, so that some of it cancels.
    exact(h(x, LABELS), expected, rounding(4 * (2 * 36 + 10) + 64 + 2 * 4, condition=10))


def test_convolutional_pair_is_its_formula() -> None:
    g, h = small(WGANConvGenerator, image_size=16, z=5), small(WGANConvCritic, image_size=16)
    randomise(g)
    randomise(h)
    z = torch.randn(5, 5, dtype=torch.float64)
    x = conditional_norm(
        (z @ g.linear.weight.T + g.linear.bias)[..., None, None], g.norms[0], LABELS
    )
    x = x.relu().view(5, 8, 4, 4)
    options: dict[str, Any] = {"stride": 2, "padding": 2, "output_padding": 1}
    x = F.conv_transpose2d(x, g.ups[0].weight, g.ups[0].bias, **options)
    x = conditional_norm(x, g.norms[1], LABELS).relu()
    x = torch.tanh(F.conv_transpose2d(x, g.ups[1].weight, g.ups[1].bias, **options))
    # Sums over 5 numbers and over 5x5 of up to 8 channels, BatchNorm's two over 5 and 5x64 values,
    # of which the first is over few, so that what came before may grow.
    exact(g(LABELS, z), x, rounding(5 + 2 * 200 + 2 * (5 + 320) + 20, condition=10))
    features = x
    for down in h.downs:
        features = conv(features, down, stride=2, padding=2)
        features = torch.where(features > 0, features, 0.2 * features)
    features = features.flatten(1)
    head = h.head
    expected = features @ head.linear.weight[0] + head.linear.bias[0]
    expected = expected + (features * head.embedding.weight[LABELS]).sum(1)
    assert [tuple(down.weight.shape) for down in h.downs] == [(4, 1, 5, 5), (8, 4, 5, 5)]
    # Sums over 5x5 of up to 4 channels and over 128 features, of both signs.
    exact(h(x, LABELS), expected, rounding(25 + 100 + 2 * 128 + 10, condition=10))


@pytest.mark.parametrize("make", GENERATORS)
def test_generators_draw_their_noise_and_know_the_class(make) -> None:
    g = small(make, z=5)
    torch.manual_seed(4)
    drawn = g(LABELS)
    torch.manual_seed(4)
    assert torch.equal(g(LABELS, torch.randn(5, 5, dtype=torch.float64)), drawn)
    assert -1 <= drawn.min() < 0 < drawn.max() <= 1
    z = torch.randn(1, 5, dtype=torch.float64).expand(5, 5)
    randomise(g)
    same = g(LABELS, z)
    # BatchNorm divides by the root of 1e-5 where nothing but rounding tells the samples apart.
    exact(same[1], same[4], rounding(8 * 200, condition=1e-5**-0.5))
    assert (same[0] - same[1]).abs().max() > 1e-3


@pytest.mark.parametrize("make", CRITICS)
@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_critics_judge_each_sample_alone(make, conditioning) -> None:
    h, x = small(make, conditioning=conditioning), images()
    scores = h(x, LABELS)
    # A batch of another size may be summed in another order: eight convolutions of up to 200 inputs
    # and the head's 128, of both signs.
    exact(h(x[1:3], LABELS[1:3]), scores[1:3], rounding(8 * 200 + 128, condition=10))
    others = h(x, (LABELS + 1) % 3)
    assert torch.equal(scores, others) == (conditioning == "auxiliary")
    if conditioning == "auxiliary":
        judged, classes = h.judge(x, LABELS)
        assert torch.equal(judged, scores)
        assert classes.shape == (5, 3)
        assert classes.std() > 0
    else:
        with pytest.raises(SettingsError, match=f"{make.__name__}.judge: .*auxiliary"):
            h.judge(x, LABELS)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [8, 28])
def test_every_parameter_has_a_gradient(pair, size) -> None:
    g, h = (small(make, image_size=size) for make in pair)
    drawn = g(LABELS)
    (h(drawn, LABELS).square().sum() + gradient_penalty(h, drawn, 0 * drawn, LABELS)).backward()
    for module in (g, h):
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_initialisation() -> None:
    """He's and Glorot's bounds; a transposed convolution's outputs meet a quarter of its kernel."""
    g, h = small(WGANConvGenerator, width=16, z=50), small(WGANResidualCritic, width=16)
    (up,), conv1 = g.ups, h.blocks[1].conv1
    for p, bound in (
        (up.weight, (6 / (16 * 25 / 4)) ** 0.5),
        (conv1.weight, (6 / (16 * 9)) ** 0.5),
        (g.linear.weight, (6 / (50 + 256)) ** 0.5),
    ):
        assert 0.95 * bound < p.abs().max() <= bound
        # the square of a uniform number varies by 0.8 of its mean's square; a root halves it
        error = 0.5 * (0.8 / p.numel()) ** 0.5
        near(p.std(), bound / 3**0.5, 5 * error, why="five standard errors")
    assert g.norms[0].gain.weight.abs().max() == g.norms[0].offset.weight.abs().max() == 0
    assert up.bias.abs().max() == conv1.bias.abs().max() == g.linear.bias.abs().max() == 0


@pytest.mark.parametrize("make", [*GENERATORS, *CRITICS])
def test_what_is_refused(make) -> None:
    name = make.__name__
    with pytest.raises(SettingsError, match=f"{name}: image_size=20 is not supported.* 8, 16, 28"):
        small(make, image_size=20)
    with pytest.raises(SettingsError, match=f"{name}.width=0.*at least 1"):
        small(make, width=0)
    arguments = [torch.tensor([0, 3])]
    if make in CRITICS:
        arguments.insert(0, images(2))
        with pytest.raises(SettingsError, match=f"{name}.conditioning='label'.*must be.* one of"):
            small(make, conditioning="label")
        with pytest.raises(DataError, match=rf"{name}: images have shape \(5, 1, 9, 9\)"):
            small(make)(images(size=9), LABELS)
    else:
        with pytest.raises(DataError, match=rf"{name}: noise has shape \(4, 5\)"):
            small(make, z=5)(LABELS, torch.zeros(4, 5))
    with pytest.raises(DataError, match=f"{name}: labels range over 0..3"):
        small(make)(*arguments)
