"""A search network as the discriminator's trunk."""

from __future__ import annotations

import pytest
import torch
from compare import exact, rounding
from torch import Tensor, nn

from mlopt._errors import DataError, SettingsError
from mlopt.generators import SharedDiscriminator, Trunk


class TwoOperations(nn.Module):
    """A smooth trunk whose architecture mixes two operations."""

    def __init__(self, out_features: int = 4) -> None:
        super().__init__()
        self.out_features = out_features
        self.conv = nn.Conv2d(1, out_features, 3, padding=1)
        self.linear = nn.Conv2d(1, out_features, 1)

    def features(self, x: Tensor, a: Tensor) -> Tensor:
        mixed = a[0] * self.conv(x).tanh() + a[1] * self.linear(x).sigmoid()
        return mixed.mean(dim=(2, 3))


@pytest.fixture
def shared() -> SharedDiscriminator:
    torch.manual_seed(0)
    return SharedDiscriminator(TwoOperations(), 3).double()


# A sum over nine pixels, a mean over 64 and a BatchNorm over 320, the head's sums over four.
SCORE = rounding(9 + 64 + 2 * 320 + 10)

X = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 2, 1])
A = torch.tensor([0.3, 0.7], dtype=torch.float64)


def test_the_formula(shared) -> None:
    h = shared.trunk.features(X, A)
    expected = torch.stack(
        [shared.linear.weight[0] @ h[i] + shared.linear.bias[0] + shared.embedding.weight[y] @ h[i]
         for i, y in enumerate(Y)]
    )  # fmt: skip
    exact(shared(X, Y, A), expected, SCORE)


def test_the_trunk_is_trained_with_the_head(shared) -> None:
    shared(X, Y, A).square().sum().backward()
    names = dict(shared.named_parameters())
    assert {"trunk.conv.weight", "linear.weight", "embedding.weight"} <= set(names)
    for name, p in names.items():
        assert p.grad.abs().sum() > 0, name


def test_the_losses_depend_on_the_architecture_twice(shared) -> None:
    """First and mixed second derivatives in the architecture: what LFM-CW's last term needs."""
    assert torch.autograd.gradcheck(lambda a: shared(X, Y, a), A.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(
        lambda x, a: shared(x, Y, a), (X.clone().requires_grad_(), A.clone().requires_grad_())
    )
    x, a = X.clone().requires_grad_(), A.clone().requires_grad_()
    (slope,) = torch.autograd.grad(shared(x, Y, a).sum(), x, create_graph=True)
    (mixed,) = torch.autograd.grad(slope.square().sum(), a)
    assert mixed.norm() > 0


class Normalized(TwoOperations):
    """A trunk that ends as the cells of a search network do: in BatchNorm without gain."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)

    def features(self, x: Tensor, a: Tensor) -> Tensor:
        return self.norm(self.conv(x) * a[0]).mean(dim=(2, 3))


def test_one_batch_shows_what_two_calls_hide() -> None:
    torch.manual_seed(0)
    d = SharedDiscriminator(Normalized(), 1).double()
    labels, fake = torch.zeros(5, dtype=torch.int64), 2 * X + 1
    scores = d(X, labels, A).detach()
    separate = scores.mean() - d(fake, labels, A).mean()
    exact(separate, 0, SCORE, scale=float(scores.norm()))
    real_logits, fake_logits = d.pair(X, fake, labels, A)
    assert (real_logits.mean() - fake_logits.mean()).abs() > 0.1
    joined = d(torch.cat([X, fake]), torch.cat([labels, labels]), A)
    exact(torch.cat([real_logits, fake_logits]), joined, SCORE)
    with pytest.raises(DataError, match=r"fake is \(4, 1, 8, 8\); .*each of 5"):
        d.pair(X, fake[:4], labels, A)


def test_the_protocol() -> None:
    assert isinstance(TwoOperations(), Trunk)
    with pytest.raises(SettingsError, match="Linear cannot be a trunk.*features"):
        SharedDiscriminator(nn.Linear(2, 2), 3)
    trunk = TwoOperations()
    trunk.out_features = 0
    with pytest.raises(SettingsError, match="out_features=0"):
        SharedDiscriminator(trunk, 3)
    with pytest.raises(SettingsError, match="classes=0"):
        SharedDiscriminator(TwoOperations(), 0)


def test_a_label_outside_the_classes(shared) -> None:
    with pytest.raises(DataError, match=r"SharedDiscriminator: labels range over 0\.\.3"):
        shared(X, torch.tensor([0, 1, 2, 3, 0]), A)
