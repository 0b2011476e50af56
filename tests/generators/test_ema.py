"""The running average of a network: its numbers, its start, and what it copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mlopt._errors import SettingsError
from mlopt.generators import ExponentialAverage

F64 = torch.float64


def scalar(value: float) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([value], dtype=F64))
    module.register_buffer("mean", torch.tensor([10 * value], dtype=F64))
    module.register_buffer("count", torch.tensor(int(value)))
    return module


def write(module: Any, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)
        module.mean.fill_(10 * value)
        module.count.fill_(int(value))


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_numbers(start) -> None:
    module = scalar(1.0)
    average = ExponentialAverage(module, decay=0.9, start=start)
    expected = 1.0
    for k, value in enumerate([2.0, 5.0, -3.0, 7.0, 4.0]):
        write(module, value)
        average.update()
        expected = value if k < start else 0.9 * expected + 0.1 * value
        found: Any = average.module
        # 1 - decay, two products and a sum, five times, of numbers up to 7 that cancel in part
        exact(found.weight, [expected], rounding(5 * 4), scale=7)
        exact(found.mean, [10 * expected], rounding(5 * 4), scale=70)
        assert found.count.item() == int(value)
        assert module.weight.item() == value
    assert average.updates == 5


def test_it_begins_with_the_network_and_shares_nothing() -> None:
    module = nn.BatchNorm1d(2)
    average = ExponentialAverage(module)
    assert average.decay == 0.9999
    assert torch.equal(average.module.weight, module.weight)
    assert not average.module.training
    assert module.training
    assert module.weight.requires_grad
    assert not any(p.requires_grad for p in average.module.parameters())
    for ours, theirs in zip(average.module.parameters(), module.parameters(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


def test_the_statistics_of_batch_norm_are_averaged_and_its_count_copied() -> None:
    module = nn.BatchNorm1d(1).double()
    average = ExponentialAverage(module, decay=0.75)
    module(torch.tensor([[1.0], [3.0]], dtype=F64))
    average.update()
    found: Any = average.module
    exact(found.running_mean, [0.25 * 0.1 * 2], rounding(10))
    assert found.num_batches_tracked.item() == 1


def test_a_tied_parameter_is_averaged_once() -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    module[1].weight = module[0].weight
    nn.init.constant_(module[0].weight, 0.0)
    average = ExponentialAverage(module, decay=0.5)
    nn.init.constant_(module[0].weight, 1.0)
    average.update()
    assert average.module[0].weight.item() == 0.5
    assert average.module[1].weight is average.module[0].weight


def turning(angle: float) -> torch.Tensor:
    """A matrix whose leading singular vectors turn with the angle."""
    c, s = torch.cos(torch.tensor(angle, dtype=F64)), torch.sin(torch.tensor(angle, dtype=F64))
    turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    return turn @ torch.diag(torch.tensor([3.0, 1.0], dtype=F64)) @ turn.T


def test_vectors_of_a_spectral_norm_fit_the_average() -> None:
    """The plain average of two unit vectors at right angles is shorter by a third."""
    module: Any = spectral_norm(nn.Linear(2, 2, bias=False).double())
    original = module.parametrizations.weight.original
    average = ExponentialAverage(module, decay=0.5, start=1)
    found: Any = average.module
    for k, angle in enumerate((0.0, 1.2)):
        with torch.no_grad():
            original.copy_(turning(angle))
        for _ in range(100):
            assert module.weight.shape == (2, 2)  # a pass, and with it a power step
        average.update()
        if k == 0:
            state, source = (m.parametrizations.weight[0] for m in (found, module))
            assert torch.equal(state._u, source._u)
    held = found.parametrizations.weight[0]
    assert not held.training
    exact((held._u.norm(), held._v.norm()), (1, 1), rounding(20))
    mean = (turning(0.0) + turning(1.2)) / 2
    exact(found.parametrizations.weight.original, mean, rounding(10))
    # The vectors' mean halves the angle, as the leading ones of the matrices' mean do.
    largest = torch.linalg.svdvals(mean)[0]
    exact(mean.norm() / found.weight.norm(), largest, rounding(50))


def test_going_on_from_a_state() -> None:
    values = [2.0, 5.0, -3.0, 7.0]
    straight_module = scalar(1.0)
    straight = ExponentialAverage(straight_module, decay=0.9, start=2)
    for value in values:
        write(straight_module, value)
        straight.update()
    module = scalar(1.0)
    first = ExponentialAverage(module, decay=0.9, start=2)
    for value in values[:3]:
        write(module, value)
        first.update()
    state = first.state_dict()
    second = ExponentialAverage(module, decay=0.9, start=2)
    write(module, values[3])
    second.load_state_dict(state)
    second.update()
    assert second.updates == straight.updates == 4
    assert torch.equal(second.module.weight, straight.module.weight)


def test_settings_that_are_refused() -> None:
    for decay in (-0.1, 1.0, 1.5):
        with pytest.raises(SettingsError, match=rf"decay={decay}\): .* in \[0, 1\)"):
            ExponentialAverage(nn.Linear(1, 1), decay=decay)
    with pytest.raises(SettingsError, match="start=-1"):
        ExponentialAverage(nn.Linear(1, 1), start=-1)
    with pytest.raises(SettingsError, match=r"\['weight'\].*'module' and 'updates'"):
        ExponentialAverage(nn.Linear(1, 1)).load_state_dict({"weight": 1})
