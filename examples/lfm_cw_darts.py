"""LFM-CW: learning from mistakes based on class weighting (Gala and Xie), in any search space.

A classifier W1 is trained and makes mistakes; a conditional generator G draws images of each class;
a second classifier W2 is trained on real images and on generated ones, weighted by W1's validation
loss of their class; the architecture A that all of them share is judged by W2's validation loss.

    python examples/lfm_cw_darts.py                      # digits, a few minutes on two CPU cores
    python examples/lfm_cw_darts.py --space p-darts
    python examples/lfm_cw_darts.py --generator biggan --d-steps 4 --ema 0.999
    python examples/lfm_cw_darts.py --images-per-class 2 --synthetic-only
    python examples/lfm_cw_darts.py --preset paper --dataset cifar10 --data-root data --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import darts
import mlopt
from callbacks import Follow
from gan import Pixels, gan, make_average, make_players
from measuring import Learner
from mlopt.data import ImageData
from mlopt.generators import ExponentialAverage
from mlopt.nas import Architecture, ClassLosses, SearchSpace, Supernet
from optimizers import adam, hypergradient_method, sgd
from pipeline import main
from searching import Scheme, Search
from spaces import supernet
from support.settings import Settings


@dataclass
class Networks:
    """The architecture, and the four networks; with `--ema` the generator's average, too."""

    a: Architecture
    w1: Supernet
    w2: Supernet
    g: nn.Module
    h: nn.Module
    average: ExponentialAverage | None = None

    @classmethod
    def make(cls, space: SearchSpace, data: ImageData, s: Settings) -> Networks:
        a = space.architecture()
        w1, w2 = (supernet(space, data, s) for _ in "12")
        g, h = make_players(space, data, s)
        for network in (a, g, h):
            network.to(s.device)
        return cls(a, w1, w2, g, h, make_average(g, s))


def lfm_cw(nets: Networks, train, valid, data: ImageData, s: Settings) -> mlopt.Engine:
    """The graph of the paper; `train` gives (images, labels, images without augmentation)."""
    A, W1, W2 = (
        mlopt.Variable(nets.a, "a"),
        mlopt.Variable(nets.w1, "w1"),
        mlopt.Variable(nets.w2, "w2"),
    )
    G, H = mlopt.Variable(nets.g, "g"), mlopt.Variable(nets.h, "h")
    first, second = s.generator_epochs, s.generator_epochs + s.pretrain
    pixels = Pixels(data, s.generator_size)
    state = ClassLosses(data.classes, normalize=cast(Any, s.class_loss_normalization))
    each_class = torch.arange(data.classes, device=s.device).repeat(s.images_per_class)

    def labels(y):  # of generated images: the batch's, or M of each class
        return each_class if s.images_per_class else y

    @mlopt.problem(over=W1, given=[A], data=train, start=first, **sgd(W1, s))
    def stage1(w1, a, batch):  # Eq. 1
        x, y, _ = batch
        return cross_entropy(w1(x, a()), y)

    discriminator, generator = gan(G, H, A, train, pixels, s)  # Eq. 2

    @mlopt.signal(given=[W1, A], data=valid, state=state)
    def class_losses(w1, a, batch):  # l_c(A, W1*, D_val) in Eq. 3
        x, y = batch
        return state(cross_entropy(w1(x, a()), y, reduction="none"), y)

    def draw(g, batch):  # x_cm = f(c, noise, G*) in Eq. 3
        _, y, _ = batch
        return pixels.synthetic(g(labels(y)))

    synthetic = mlopt.signal(given=[G], data=train, name="synthetic")(draw)
    if nets.average is not None:  # a constant of the step: A is not judged by what it does to G
        average = nets.average.module
        synthetic = mlopt.signal(given=[], data=train, name="synthetic")(
            lambda batch: draw(average, batch)
        )

    @mlopt.problem(
        over=W2, given=[A, class_losses, synthetic], data=train, start=second, **sgd(W2, s)
    )
    def stage2(w2, a, weights, fake, batch):  # Eq. 3
        x, y, _ = batch
        c = labels(y)
        mistakes = weights[c] * cross_entropy(w2(fake, a()), c, reduction="none")
        generated = mistakes.sum() if s.images_per_class else mistakes.mean()
        real = 0.0 if s.synthetic_only else cross_entropy(w2(x, a()), y)  # Eq. 19 leaves it out
        return real + s.lambda_ * generated

    @mlopt.problem(over=A, given=[W2], data=valid, start=second + s.warmup, **adam(A, s))
    def stage3(a, w2, batch):  # Eq. 4
        x, y = batch
        return cross_entropy(w2(x, a()), y)

    return mlopt.Engine(
        [stage1, discriminator, generator, class_losses, synthetic, stage2, stage3],
        hypergrad=hypergradient_method(s),
        schedule=mlopt.Sequential() if s.order == "first" else None,
        device=s.device,
        seed=s.seed,
        compile=bool(s.compile) and {"backend": s.compile},
    )


def search(space: SearchSpace, data: ImageData, train, valid, s: Settings) -> Search:
    """The networks and the graph, ready to run."""
    nets = Networks.make(space, data, s)
    average = nets.average
    return Search(
        engine=lfm_cw(nets, train, valid, data, s),
        learners=[Learner(space, nets.a, classifier=nets.w2, training="stage1/loss")],
        networks=[nets.w1, nets.w2, nets.g, nets.h],
        before=s.generator_epochs + s.pretrain,
        epochs=s.epochs,
        generator=average.module if average else nets.g,
        callbacks=[Follow(average)] if average else [],
    )


scheme = Scheme("LFM-CW", search, plain=True, base=darts.scheme)

if __name__ == "__main__":
    main("lfm_cw_darts", scheme, __doc__)
