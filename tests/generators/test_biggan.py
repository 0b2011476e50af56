"""The BigGAN pair: counts, shapes, the equations written out, conditioning, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, conv2d, interpolate, linear, relu

from mlopt._errors import DataError, SettingsError
from mlopt.generators import BigGANDiscriminator, BigGANGenerator

F64 = torch.float64
LABELS = torch.tensor([0, 1, 2, 2, 1])
HIERARCHICAL = {"shared": 128, "hierarchical": True}


def generator(**settings: Any) -> BigGANGenerator:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "classes": 3, "z": 6, "width": 2} | settings
    return BigGANGenerator(**settings).double()


def discriminator(**settings: Any) -> BigGANDiscriminator:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "classes": 3, "width": 2} | settings
    return BigGANDiscriminator(**settings).double()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "classes", "z", "width", "of_g", "of_d", "g_count", "d_count"),
    [
        (32, 10, 128, 64, {}, {}, 4_304_387, 4_207_361),
        (32, 100, 128, 64, {}, {}, 4_580_867, 4_230_401),
        (32, 10, 120, 64, HIERARCHICAL, {}, 4_358_915, 4_207_361),
        (32, 100, 120, 64, HIERARCHICAL, {}, 4_370_435, 4_230_401),
        (32, 10, 128, 64, HIERARCHICAL, {}, 4_373_251, 4_207_361),
        # attention after the generator's block of side 16, and after all of the discriminator's
        (32, 10, 120, 64, HIERARCHICAL | {"attention": [16]}, {"attention": [16, 8]}, 4_440_836,
         4_535_045),
        (32, 10, 128, 64, {}, {"wide": False}, 4_304_387, 3_617_365),
        (32, 10, 32, 16, HIERARCHICAL | {"shared": 32}, {}, 276_163, 265_409),
        (64, 1000, 120, 64, HIERARCHICAL | {"attention": [32]}, {"attention": [32]}, 31_969_540,
         20_571_842),
        (128, 1000, 120, 96, HIERARCHICAL | {"attention": [64]}, {"attention": [64]}, 70_433_988,
         87_982_370),
    ],
)  # fmt: skip
def test_parameter_counts(size, classes, z, width, of_g, of_d, g_count, d_count) -> None:
    with torch.device("meta"):
        g = BigGANGenerator(size, 3, classes, z, width, **of_g, spectral_norm=False)
        d = BigGANDiscriminator(size, 3, classes, width, **of_d, spectral_norm=False)
    assert count(g) == g_count
    assert count(d) == d_count


def test_spectral_norm_adds_no_parameter() -> None:
    settings: dict[str, Any] = {"shared": 4, "hierarchical": True, "attention": [8]}
    assert count(generator(**settings)) == count(generator(**settings, spectral_norm=False))
    assert count(discriminator(attention=[4])) == count(
        discriminator(attention=[4], spectral_norm=False)
    )


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (128, 3)])
@pytest.mark.parametrize("settings", [{}, {"shared": 3, "hierarchical": True}])
def test_shapes_and_ranges(size, channels, settings) -> None:
    of = {"image_size": size, "channels": channels, "width": 1, "init": "orthogonal"}
    images = generator(**of, **settings)(LABELS)
    assert images.shape == (5, channels, size, size)
    assert images.dtype == F64
    assert -1 <= images.min() < 0 < images.max() <= 1
    logits = discriminator(**of)(images, LABELS)
    assert logits.shape == (5,)
    assert logits.dtype == F64


@pytest.mark.parametrize("size", [256, 512])
def test_sizes_above_the_papers_presets(size) -> None:
    with torch.device("meta"):
        g = BigGANGenerator(size, 3, 2, 8, 1, attention=[64], spectral_norm=False)
        d = BigGANDiscriminator(size, 3, 2, 1, attention=[64], spectral_norm=False)
        labels = torch.zeros(2, dtype=torch.int64)
        images = g(labels)
        assert images.shape == (2, 3, size, size)
        assert d(images, labels).shape == (2,)


def conv(x: Tensor, module: nn.Module) -> Tensor:
    weight = module.weight
    return conv2d(x, weight, module.bias, padding=weight.shape[-1] // 2)


def normalized(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def up(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("mode", ["own", "shared", "hierarchical"])
def test_the_generator_is_its_equations(size, mode) -> None:
    options = {} if mode == "own" else {"shared": 3, "hierarchical": mode == "hierarchical"}
    g = generator(image_size=size, z=8, init="orthogonal", spectral_norm=False, **options)
    with torch.no_grad():
        g.norm.weight.normal_()
        g.norm.bias.normal_()
    blocks = {8: 1, 28: 2, 32: 3}[size]
    assert len(g.blocks) == blocks
    if mode == "hierarchical":
        part = 8 // (blocks + 1)
        assert g.z == part * (blocks + 1)
        z = torch.randn(5, g.z, dtype=F64)
        parts = [z[:, k * part : (k + 1) * part] for k in range(blocks + 1)]
        ys = [torch.cat([g.embedding.weight[LABELS], p], dim=1) for p in parts[1:]]
    else:
        z = torch.randn(5, 8, dtype=F64)
        parts = [z]
        ys = [LABELS if mode == "own" else g.embedding.weight[LABELS]] * blocks

    def conditional(x: Tensor, norm: nn.Module, y: Tensor) -> Tensor:
        gain, offset = (
            m.weight[y] if mode == "own" else y @ m.weight.T for m in (norm.gain, norm.offset)
        )
        return normalized(x) * (1 + gain)[:, :, None, None] + offset[:, :, None, None]

    side = 7 if size == 28 else 4
    h = linear(parts[0], g.linear.weight, g.linear.bias).reshape(5, 8, side, side)
    for block, y in zip(g.blocks, ys, strict=True):
        inner = conv(up(relu(conditional(h, block.norm1, y))), block.conv1)
        inner = conv(relu(conditional(inner, block.norm2, y)), block.conv2)
        h = inner + conv(up(h), block.shortcut)
    last = normalized(h) * g.norm.weight[:, None, None] + g.norm.bias[:, None, None]
    expected = torch.tanh(conv(relu(last), g.image))
    # In each block twice BatchNorm's two sums over the images' pixels and a sum over 3x3 of up to
    # 16 channels; a last time both. BatchNorm lets what came before grow by 1.2 each time.
    each = 2 * 5 * size**2 + 9 * 16 + 20
    exact(g(LABELS, z), expected, rounding((2 * blocks + 1) * each, condition=1.2 ** (2 * blocks)))


@pytest.mark.parametrize(("size", "halvings"), [(8, 1), (28, 2), (32, 2), (64, 4)])
def test_the_discriminator_is_its_equations(size, halvings) -> None:
    d = discriminator(image_size=size, init="orthogonal", spectral_norm=False)
    x = torch.randn(5, 1, size, size, dtype=F64)
    h = x
    for k, block in enumerate(d.layers):
        inner = conv(relu(conv(relu(h) if k else h, block.conv1)), block.conv2)
        shortcut = h if isinstance(block.shortcut, nn.Identity) else conv(h, block.shortcut)
        if k < halvings:
            inner, shortcut = avg_pool2d(inner, 2), avg_pool2d(shortcut, 2)
        h = inner + shortcut
    h = relu(h).sum(dim=(2, 3))
    expected = torch.stack(
        [d.linear.weight[0] @ h[i] + d.linear.bias[0] + d.embedding.weight[y] @ h[i]
         for i, y in enumerate(LABELS)]
    )  # fmt: skip
    # In each block two sums over 3x3 of up to 32 channels and a mean of four; those over the last
    # pixels and channels, whose signs differ, so that some of it cancels.
    each = 2 * 9 * 32 + 4 + 3
    exact(d(x, LABELS), expected, rounding(len(d.layers) * each + 64 + 32, condition=4))


def test_each_part_of_the_noise_goes_to_its_block() -> None:
    g = generator(image_size=28, z=6, shared=3, hierarchical=True).eval()
    received: list[Tensor] = []
    for part in (g.linear, *g.blocks):
        part.register_forward_pre_hook(lambda module, args: received.append(args[-1]))
    z = torch.arange(6.0, dtype=F64).expand(5, 6)
    g(LABELS, z)
    assert torch.equal(received[0], z[:, :2])
    for k in (1, 2):
        assert torch.equal(received[k][:, :3], g.embedding.weight[LABELS])
        assert torch.equal(received[k][:, 3:], z[:, 2 * k : 2 * k + 2])


def test_noise_is_rounded_down_to_equal_parts() -> None:
    assert generator(image_size=28, z=128, shared=3, hierarchical=True).z == 126
    assert generator(image_size=28, z=128).z == 128


def test_attention_stands_where_it_was_asked_for() -> None:
    g = generator(image_size=32, attention=[16])
    assert list(g.attention) == ["1"]  # after the second block: 8, 16, 32
    d = discriminator(image_size=64, attention=[16])
    kinds = [type(layer).__name__ for layer in d.layers]
    assert kinds.index("SelfAttention") == 2  # after the second block: 32, 16


def test_same_seed_same_images() -> None:
    g = generator().eval()
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(g(LABELS))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    torch.manual_seed(1)
    assert torch.equal(g(LABELS, torch.randn(5, 6, dtype=F64)), images[0])


@pytest.mark.parametrize("settings", [{}, {"shared": 3}])
def test_the_class_changes_the_image_and_the_logit(settings) -> None:
    g, d = generator(init="xavier", **settings).eval(), discriminator().eval()
    images = g(torch.arange(3), torch.randn(1, 6, dtype=F64).expand(3, 6))
    assert (images[0] - images[1]).abs().max() > 1e-3
    assert (images[1] - images[2]).abs().max() > 1e-3
    assert len(d(images[:1].expand(3, -1, -1, -1), torch.arange(3)).unique()) == 3


@pytest.mark.parametrize("settings", [{}, {"shared": 3, "hierarchical": True}])
@pytest.mark.parametrize("size", [8, 28])
def test_every_parameter_has_a_gradient(size, settings) -> None:
    g = generator(image_size=size, attention=[size], **settings).eval()
    d = discriminator(image_size=size, attention=[size // 2]).eval()
    for module in (g, d):
        for name, p in module.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(p, 0.5)
    d(g(LABELS), LABELS).square().sum().backward()
    for module in (g, d):
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_double_backward() -> None:
    """Second derivatives through both networks agree with differences of first ones."""
    g = generator(shared=3, hierarchical=True, attention=[8], init="xavier").eval()
    d = discriminator(attention=[4], init="xavier").eval()
    nn.init.constant_(g.attention["0"].gamma, 0.5)
    nn.init.constant_(d.layers[1].gamma, 0.5)
    z = torch.randn(5, g.z, dtype=F64)
    weights = {k: v.detach() for k, v in g.named_parameters()}
    name = "blocks.0.conv1.parametrizations.weight.original"

    def gradient(start: Tensor) -> Tensor:
        images = functional_call(g, weights | {name: start}, (LABELS, z))
        loss = -d(images, LABELS).square().mean()
        return torch.autograd.grad(loss, start, create_graph=True)[0]

    point = weights[name].clone().requires_grad_()
    direction = torch.randn_like(point)
    product = torch.autograd.grad((gradient(point) * direction).sum(), point)[0]
    eps = 1e-6
    ahead = gradient((point + eps * direction).detach().requires_grad_())
    behind = gradient((point - eps * direction).detach().requires_grad_())
    expected = (ahead - behind).detach() / (2 * eps)
    assert product.norm() > 0
    why = "rounding of the gradients, 1e-13, over the radius; no ReLU changes sides within it"
    near(product, expected, 1e-6, why=why)


@pytest.mark.parametrize("make", [generator, discriminator])
def test_settings_that_are_refused(make) -> None:
    with pytest.raises(SettingsError, match="image_size=48 is not supported.* 8, 28, 32, 64, 128"):
        make(image_size=48)
    for name in ("channels", "classes", "width"):
        with pytest.raises(SettingsError, match=f"{name}=0.*at least 1"):
            make(**{name: 0})
    with pytest.raises(SettingsError, match=r"init='he'.*one of 'orthogonal'"):
        make(init="he")
    with pytest.raises(SettingsError, match=r"attention=\(5,\) asks .* side 5; .* sides"):
        make(attention=[5])


def test_settings_of_the_generator_that_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"hierarchical=True .* shared=128"):
        generator(hierarchical=True)
    with pytest.raises(SettingsError, match="z=1 gives no noise to each of the 2 parts"):
        generator(hierarchical=True, shared=3, z=1)
    with pytest.raises(SettingsError, match="shared=0.*at least 1"):
        generator(shared=0)
    with pytest.raises(SettingsError, match="z=0.*at least 1"):
        generator(z=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"range over 0\.\.3, but there are 3 classes"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
    ],
)
def test_labels_that_are_refused(labels, message) -> None:
    with pytest.raises(DataError, match=f"BigGANGenerator: .*{message}"):
        generator()(labels)
    with pytest.raises(DataError, match=f"BigGANDiscriminator: .*{message}"):
        discriminator()(torch.zeros(2, 1, 8, 8, dtype=F64), labels)


def test_shapes_that_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(4, 6\); for 5 labels give \(5, 6\)"):
        generator()(LABELS, torch.zeros(4, 6))
    with pytest.raises(DataError, match=r"\(5, 1, 9, 9\); for 5 labels give \(5, 1, 8, 8\)"):
        discriminator()(torch.zeros(5, 1, 9, 9), LABELS)
