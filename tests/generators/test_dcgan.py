"""The DCGAN pair: shapes, sizes, randomness, conditioning, gradients, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from compare import exact, near, rounding

from mlopt._errors import DataError, SettingsError
from mlopt.generators import DCGANDiscriminator, DCGANGenerator

SIZES = [(8, 1), (16, 3), (28, 1), (32, 3), (64, 3), (128, 1)]
LABELS = torch.tensor([0, 1, 2, 2, 1])


def generator(**settings: int) -> DCGANGenerator:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "classes": 3, "z": 5, "width": 4} | settings
    return DCGANGenerator(**settings)


def discriminator(**settings: int) -> DCGANDiscriminator:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "classes": 3, "width": 4} | settings
    return DCGANDiscriminator(**settings)


@pytest.mark.parametrize(("size", "channels"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_ranges(size, channels, dtype) -> None:
    g = generator(image_size=size, channels=channels).to(dtype)
    d = discriminator(image_size=size, channels=channels).to(dtype)
    images = g(LABELS)
    assert images.shape == (5, channels, size, size)
    assert images.dtype == dtype
    assert -1 <= images.min() < 0 < images.max() <= 1
    logits = d(images, LABELS)
    assert logits.shape == (5,)
    assert logits.dtype == dtype


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "channels", "of_generator", "of_discriminator"),
    [
        # embedding 320; start 132*64*16 + 128; image 64*1*16 + 1
        (8, 1, 136_641, 1_088 + 131_072 + 256 + 513 + 5_120),
        # embedding 320; start 132*128*49 + 256; up 128*64*16 + 128; image 64*16 + 1
        (28, 1, 960_705, 1_088 + 131_072 + 256 + 6_273 + 62_720),
        # embedding 320; start 132*256*16 + 512; ups 524_288 + 256 and 131_072 + 128; image 3_075
        (32, 3, 1_200_323, 3_136 + 131_072 + 256 + 524_288 + 512 + 4_097 + 40_960),
        # The published 64-pixel networks have 3_576_704 and 2_765_568. Ours: embedding 320, 32 more
        # inputs of the start 262_144, bias of the image 3; bias of the first convolution 64, of the
        # last 1, projection 81_920.
        (64, 3, 3_576_704 + 320 + 262_144 + 3, 2_765_568 + 64 + 1 + 81_920),
    ],
)
def test_parameter_counts(size, channels, of_generator, of_discriminator) -> None:
    assert count(DCGANGenerator(size, channels, 10)) == of_generator
    assert count(DCGANDiscriminator(size, channels, 10)) == of_discriminator


def test_initialisation() -> None:
    for module in (generator(width=32), discriminator(width=32)):
        for name, p in module.named_parameters():
            if name.startswith("embedding"):
                continue
            if name.endswith("bias"):
                assert p.abs().max() == 0, name
            elif p.numel() > 500:  # a convolution or the last linear map
                why, n = f"five standard errors of {name}", p.numel()
                near(p.std(), 0.02, 5 / math.sqrt(2 * n), why=why)
                near(p.mean(), 0, 5 / math.sqrt(n), scale=0.02, why=why)
            elif p.ndim == 1:  # gain of a BatchNorm
                near(p.mean(), 1, 5 * 0.02 / math.sqrt(p.numel()), why="five standard errors")
                assert 0.01 < p.std().item() < 0.03, name


def test_same_seed_same_images() -> None:
    g = generator()
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(g(LABELS))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_given_noise_is_what_it_draws_itself() -> None:
    g = generator().eval()
    torch.manual_seed(4)
    drawn = g(LABELS)
    torch.manual_seed(4)
    noise = torch.randn(5, 5)
    state = torch.get_rng_state()
    assert torch.equal(g(LABELS, noise), drawn)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_class_changes_the_image_and_the_logit() -> None:
    g, d = generator().eval(), discriminator().eval()
    noise = torch.randn(1, 5).expand(3, 5)
    images = g(torch.arange(3), noise)
    assert (images[0] - images[1]).abs().max() > 1e-3
    assert (images[1] - images[2]).abs().max() > 1e-3
    same = images[:1].expand(3, -1, -1, -1)
    logits = d(same, torch.arange(3))
    assert len(logits.unique()) == 3


def test_the_projection_is_linear_plus_inner_product() -> None:
    d = discriminator().double().eval()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    h = d.layers(x)
    expected = torch.stack(
        [d.linear.weight[0] @ h[i] + d.linear.bias[0] + d.embedding.weight[y] @ h[i]
         for i, y in enumerate(LABELS)]
    )  # fmt: skip
    exact(d(x, LABELS), expected, rounding(2 * h.shape[1] + 2))  # two inner products and their sum


@pytest.mark.parametrize(("size", "channels"), SIZES)
def test_every_parameter_has_a_gradient(size, channels) -> None:
    g = generator(image_size=size, channels=channels)
    d = discriminator(image_size=size, channels=channels)
    d(g(LABELS), LABELS).square().sum().backward()
    for module in (g, d):
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_double_backward() -> None:
    """Second derivatives through both networks agree with differences of first ones."""
    g, d = generator().double().eval(), discriminator().double().eval()
    noise = torch.randn(5, 5, dtype=torch.float64)
    weights = dict(g.named_parameters())
    start = g.layers[0].weight.detach()

    def gradient(start: torch.Tensor) -> torch.Tensor:
        values = weights | {"layers.0.weight": start}
        images = torch.func.functional_call(g, values, (LABELS, noise))
        loss = torch.nn.functional.softplus(-d(images, LABELS)).mean()
        return torch.autograd.grad(loss, start, create_graph=True)[0]

    point = start.clone().requires_grad_()
    direction = torch.randn_like(start)
    product = torch.autograd.grad((gradient(point) * direction).sum(), point)[0]
    eps = 1e-6
    ahead = gradient((start + eps * direction).requires_grad_())
    behind = gradient((start - eps * direction).requires_grad_())
    expected = (ahead - behind).detach() / (2 * eps)
    assert product.norm() > 0
    why = "rounding of the gradients, 1e-14, over the radius; no LeakyReLU changes sides within it"
    near(product, expected, 1e-6, why=why)


@pytest.mark.parametrize("make", [generator, discriminator])
def test_settings_that_are_refused(make) -> None:
    with pytest.raises(SettingsError, match="image_size=24 is not supported.* 8, 16, 28, 32"):
        make(image_size=24)
    for name in ("channels", "classes", "width"):
        with pytest.raises(SettingsError, match=f"{name}=0.*at least 1"):
            make(**{name: 0})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"range over 0\.\.3, but there are 3 classes"),
        (torch.tensor([-1, 2]), r"range over -1\.\.2"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
        (torch.tensor([[0, 1]]), r"\(1, 2\)"),
    ],
)
def test_labels_that_are_refused(labels, message) -> None:
    with pytest.raises(DataError, match=f"DCGANGenerator: .*{message}"):
        generator()(labels)
    with pytest.raises(DataError, match=f"DCGANDiscriminator: .*{message}"):
        discriminator()(torch.zeros(2, 1, 8, 8), labels)


def test_shapes_that_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\); for 5 labels give \(5, 5\)"):
        generator()(LABELS, torch.zeros(4, 5))
    with pytest.raises(DataError, match=r"\(5, 1, 9, 9\); for 5 labels give \(5, 1, 8, 8\)"):
        discriminator()(torch.zeros(5, 1, 9, 9), LABELS)
