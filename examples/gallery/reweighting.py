"""Meta-Weight-Net: a small net learns which losses to trust, from a few clean images.

    min over v  L_meta(w*(v))    where    w*(v) = argmin over w  mean of  u_i l_i(w),
                                          u_i = V(l_i; v) / mean of V(l; v)

l_i is the cross-entropy of training image i, of which 40 % have a wrong label; V has one hidden
layer and maps a loss to a weight in (0, 1). The digits of scikit-learn; 100 clean images are the
meta set. One look-ahead of the classifier's own optimizer stands for w*, and the weight net is
updated first, as in the paper. The weights of a batch are divided by their mean: else the weight
net gains most by raising all of them alike, and ends at one for every loss.

    python examples/gallery/reweighting.py

Reference: Shu et al., "Meta-Weight-Net: Learning an explicit mapping for sample weighting",
NeurIPS 2019.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

import mlopt
from bounded import count, share
from mlopt.data import load
from mlopt.report import format_table
from resumable import parsed, program, saved

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Training images with noisy labels, whether each was changed, a clean meta set, and a test."""

    train: Rows
    changed: Tensor
    meta: Rows
    test: Rows


def make_data(seed: int = 0, noise: float = 0.4, meta: int = 100) -> Data:
    """The digits; a noisy label is drawn evenly from the other nine."""
    digits = load("digits")
    g = torch.Generator().manual_seed(seed)

    def rows(images: Tensor, labels: Tensor) -> Rows:
        return images.flatten(1) / 16, labels

    x, y = rows(digits.train_images, digits.train_labels)
    order = torch.randperm(len(x), generator=g)
    x, y = x[order], y[order]
    clean, train, labels = (x[:meta], y[:meta]), x[meta:], y[meta:]
    changed = torch.rand(len(labels), generator=g) < noise
    others = (labels + torch.randint(1, 10, labels.shape, generator=g)) % 10
    noisy = torch.where(changed, others, labels)
    return Data((train, noisy), changed, clean, rows(digits.test_images, digits.test_labels))


def make_classifier(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def make_weight_net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())


def batches(rows: Rows, size: int = 100) -> DataLoader:
    return DataLoader(TensorDataset(*rows), batch_size=size, shuffle=True)


def build(data: Data, seed: int) -> tuple[mlopt.Engine, nn.Module, nn.Module]:
    """The two levels, the classifier and the weight net."""
    classifier, weight_net = make_classifier(seed), make_weight_net(seed)
    W, V = mlopt.Variable(classifier, "w"), mlopt.Variable(weight_net, "v")

    @mlopt.problem(
        over=W, given=[V], data=batches(data.train),
        optimizer=SGD(W.parameters(), lr=0.1, momentum=0.9), hypergrad=mlopt.OneStep(),
    )  # fmt: skip
    def training(w, v, batch):
        x, y = batch
        losses = cross_entropy(w(x), y, reduction="none")
        weights = weights_of(v, losses)
        return (weights / weights.mean() * losses).mean()

    @mlopt.problem(
        over=V, given=[W], data=batches(data.meta), optimizer=Adam(V.parameters(), lr=3e-4)
    )
    def meta(v, w, batch):
        x, y = batch
        return cross_entropy(w(x), y)

    engine = mlopt.Engine([training, meta], schedule=mlopt.UpperFirst(), seed=seed)
    return engine, classifier, weight_net


def reweighted(data: Data, seed: int, epochs: int) -> tuple[nn.Module, nn.Module]:
    """Both nets after some passes over the training images."""
    engine, w, v = build(data, seed)
    engine.run(epochs=epochs, progress=False, **saved())
    return w, v


def weights_of(v: nn.Module, losses: Tensor) -> Tensor:
    """The weight of each image; its loss goes in as a number, no gradient passes."""
    return v(losses.detach()[:, None]).squeeze(-1)


def plain(rows: Rows, seed: int, epochs: int) -> nn.Module:
    """The same classifier, with the mean loss of the rows."""
    model = make_classifier(seed)
    W = mlopt.Variable(model, "w")

    @mlopt.problem(over=W, data=batches(rows), optimizer=SGD(W.parameters(), lr=0.1, momentum=0.9))
    def training(w, batch):
        x, y = batch
        return cross_entropy(w(x), y)

    mlopt.Engine([training], seed=seed).run(epochs=epochs, progress=False, **saved())
    return model


@torch.no_grad()
def accuracy(model: nn.Module, rows: Rows) -> float:
    """In per cent."""
    x, y = rows
    return 100 * (model(x).argmax(1) == y).double().mean().item()


@torch.no_grad()
def mean_weights(data: Data, w: nn.Module, v: nn.Module) -> tuple[float, float]:
    """The mean weight of the training images with their own label, and of those with another."""
    x, y = data.train
    weights = weights_of(v, cross_entropy(w(x), y, reduction="none"))
    return weights[~data.changed].mean().item(), weights[data.changed].mean().item()


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    return build(make_data(), 0)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--epochs", type=count, default=60)
    parser.add_argument("--noise", type=share, default=0.4, help="share of labels that are wrong")
    given = parsed(parser, make_engine)
    found: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        data = make_data(seed, given.noise)
        w, v = reweighted(data, seed, given.epochs)
        (x, y), (x_meta, y_meta) = data.train, data.meta
        both = torch.cat([x, x_meta]), torch.cat([y, y_meta])
        scores = {
            "Meta-Weight-Net": accuracy(w, data.test),
            "plain, noisy images": accuracy(plain(data.train, seed, given.epochs), data.test),
            "plain, noisy and meta": accuracy(plain(both, seed, given.epochs), data.test),
            "plain, meta alone": accuracy(plain(data.meta, seed, 10 * given.epochs), data.test),
        }
        own, wrong = mean_weights(data, w, v)
        print(f"seed {seed}: mean weight {own:.2f} of right labels, {wrong:.2f} of wrong ones")
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
    rows = [
        {
            "training": name,
            "test accuracy": f"{mean(scores):.1f} %",
            "deviation": f"{stdev(scores):.1f}" if len(scores) > 1 else None,
        }
        for name, scores in found.items()
    ]
    print(format_table(rows))


if __name__ == "__main__":
    program(main)
