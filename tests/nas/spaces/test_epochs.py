"""What of a supernet follows the epochs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from compare import exact, kills, rounding
from nas.reference import supernet_rounding
from nas.space_cases import SMALL, second, third

from mlopt.nas import DARTS, PCDARTS, PDARTS, Architecture, DARTSMinus

STORED = rounding(1, dtype=torch.float32)
"""Both sides are rounded to float32 from twelve equal digits: as a rule to the same bits."""


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1, 0.8, 0.5, 0.02]),
        ("cosine", [1, 0.904508497187, 0.5, 0.000986635785864]),
        ("slow-cosine", [1, 0.951056516295, 0.707106781187, 0.0314107590781]),
        ("none", [1, 1, 1, 1]),
    ],
)
def test_decay_of_the_auxiliary_skip(decay, expected):
    space = DARTSMinus(**SMALL, decay=decay)
    network = space.supernet(10)
    assert network.scheduled == 1
    for epoch, beta in zip((0, 10, 25, 49), expected, strict=True):
        network.begin_epoch(epoch, 50, warmup=7)
        exact(network.state_dict()["scheduled"], torch.tensor(beta), STORED)


@pytest.mark.parametrize(("stage", "rate"), [(0, 0.1), (1, 0.4), (2, 0.7)])
def test_decay_of_skip_dropout(stage, rate):
    """By 1 / 25 in each epoch of the warm-up, then from the rate down by exp(-0.2)."""
    space = [PDARTS(), second(), third()][stage]
    space = dataclasses.replace(space, channels=2, add_layers=(0, 0, 0))
    network = space.supernet(10)
    assert network.scheduled == torch.tensor(rate)
    shares = {0: 0.96, 5: 0.76, 9: 0.6, 10: 1, 15: 0.367879441171, 24: 0.0608100626252}
    for epoch, share in shares.items():
        network.begin_epoch(epoch, 25, warmup=10)
        exact(network.state_dict()["scheduled"], torch.tensor(rate * share), STORED)


def test_nothing_follows_the_epochs_elsewhere():
    for space in (DARTS(**SMALL), PCDARTS(**SMALL), PDARTS(**SMALL, skip_dropout=(0, 0, 0))):
        network = space.supernet(10)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        network.begin_epoch(3, 4, warmup=1)
        assert "scheduled" not in before
        assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_auxiliary_convolutions_begin_as_the_identity():
    conv = DARTSMinus(**SMALL, auxiliary="conv").supernet(5).double()
    skip = DARTSMinus(**SMALL).supernet(5).double()
    skip.load_state_dict(conv.state_dict(), strict=False)
    x, a = torch.randn(2, 3, 8, 8, dtype=torch.float64), Architecture(2).double()
    bound = supernet_rounding(1, 3, 2, 128)
    expected = skip(x, a())
    exact(conv(x, a()), expected, bound)
    skip.begin_epoch(9, 10)
    kills(skip(x, a()), expected, bound)
