"""GANs by name: what a family decides, and where options go."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch

from mlopt._errors import SettingsError
from mlopt.generators import (
    GANS,
    LOSSES,
    BigGANGenerator,
    DCGANDiscriminator,
    WGANConvCritic,
    WGANResidualGenerator,
    make_gan,
    train_gan,
)

LABELS = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("name", GANS)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
def test_every_family_at_every_size(name, size, channels) -> None:
    torch.manual_seed(0)
    g, h = make_gan(name, size, channels, 3, z=6, width=2)
    images = g(LABELS)
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert h(images, LABELS).shape == (3,)


def test_published_settings() -> None:
    expected = {
        "dcgan": ("non-saturating", 2e-4, (0.5, 0.999), "none", 1, 0.0, 0.0, 0),
        "wgan-gp": ("wasserstein", 2e-4, (0.0, 0.9), "linear", 5, 10.0, 0.0, 0),
        "wgan-gp-conv": ("wasserstein", 1e-4, (0.5, 0.9), "none", 5, 10.0, 0.0, 0),
        "biggan": ("hinge", 2e-4, (0.0, 0.999), "none", 4, 0.0, 0.9999, 1000),
    }
    found = {name: dataclasses.astuple(family)[2:] for name, family in GANS.items()}
    assert found == expected
    for family in GANS.values():
        assert family.loss in LOSSES
        inspect.signature(train_gan).bind(None, None, [], 1, **family.training())


def test_options_go_where_they_belong() -> None:
    g, h = make_gan("dcgan", 28, 1, 10, width=4, embedding=5)
    assert g.embedding.weight.shape == (10, 5)
    assert isinstance(h, DCGANDiscriminator)
    assert h.layers[0].out_channels == 4
    assert g.layers[-2].in_channels == 4
    _, h = make_gan("wgan-gp-conv", 8, 3, 10, width=4, conditioning="auxiliary")
    assert isinstance(h, WGANConvCritic)
    assert h.conditioning == "auxiliary"
    assert isinstance(make_gan("wgan-gp", 8, 3, 10, width=4)[0], WGANResidualGenerator)
    g, _ = make_gan("biggan", 8, 3, 10, width=4, shared=8, hierarchical=True, z=32)
    assert isinstance(g, BigGANGenerator)


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="no family 'stylegan'; give one of dcgan, wgan-gp"):
        make_gan("stylegan", 8, 1, 3)
    with pytest.raises(SettingsError, match="dcgan has no option 'hierarchical'; .*embedding"):
        make_gan("dcgan", 8, 1, 3, hierarchical=True)
    with pytest.raises(SettingsError, match="image_size=9"):
        make_gan("wgan-gp", 9, 1, 3)
