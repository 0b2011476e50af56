"""LFM-CW: learning from mistakes based on class weighting (Gala and Xie), in any search space.

A classifier W1 is trained and makes mistakes; a conditional generator G draws images of each class;
a second classifier W2 is trained on real images and on generated ones, weighted by W1's validation
loss of their class; the architecture A that all of them share is judged by W2's validation loss.

    python examples/lfm_cw_darts.py                      # digits, about ten minutes
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
from mlopt.data import ImageData
from mlopt.generators import (
    GANS,
    LOSSES,
    ExponentialAverage,
    SharedDiscriminator,
    gradient_penalty,
)
from mlopt.nas import Architecture, ClassLosses, SearchSpace, Supernet, sums_per_class
from support.data import fresh
from support.networks import Pixels, make_average, make_players, supernet
from support.optimization import adam, engine_options, gan_adam, hypergradient_method, sgd
from support.pipeline import main
from support.search import Follow, Learner, Scheme, Search
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
    A, W1, W2, G, H = (
        mlopt.Variable(getattr(nets, name), name) for name in ("a", "w1", "w2", "g", "h")
    )
    first, second = s.generator_epochs, s.generator_epochs + s.pretrain
    pixels = Pixels(data, s.generator_size)
    normalize = cast(Any, s.class_loss_normalization)
    state = ClassLosses(data.classes, normalize=normalize).to(s.device)
    each_class = torch.arange(data.classes, device=s.device).repeat(s.images_per_class)

    def labels(y):  # of generated images: the batch's, or M of each class
        return each_class if s.images_per_class else y

    @mlopt.problem(over=W1, given=[A], data=train, start=first, **sgd(W1, s))
    def stage1(w1, a, batch):  # Eq. 1
        x, y, _ = batch
        return cross_entropy(w1(x, a()), y)

    discriminator, generator = gan(G, H, A, train, pixels, s)  # Eq. 2, below

    @mlopt.signal(given=[W1, A], data=valid, combine="sum")
    def class_sums(w1, a, batch):  # of the losses of each class: they add up over a batch in parts
        x, y = batch
        return sums_per_class(cross_entropy(w1(x, a()), y, reduction="none"), y, data.classes)

    @mlopt.signal(given=[class_sums], state=state)
    def class_losses(sums):  # l_c(A, W1*, D_val) in Eq. 3
        return state.of_sums(*sums)

    average = nets.average  # a constant of the step: A is not judged by what it does to G

    # A value of fixed size, M images of each class, is no value of the batch's samples.
    @mlopt.signal(
        given=[] if average else [G], data=train, split=False if s.images_per_class else None
    )
    def synthetic(*rest):  # x_cm = f(c, noise, G*) in Eq. 3
        *g, (_, y, _) = rest
        draw = average.module if average else g[0]
        return pixels.synthetic(draw(labels(y)))

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
        [stage1, discriminator, generator, class_sums, class_losses, synthetic, stage2, stage3],
        **engine_options(s),
    )


def gan(
    G: mlopt.Variable, H: mlopt.Variable, A: mlopt.Variable, train: Any, pixels: Pixels, s: Settings
) -> tuple[mlopt.Problem, mlopt.Problem]:
    """Eq. 2: the discriminator H against the generator G, with the losses of the GAN's family.

    By default H is the search network at A. Real and generated images of a step go through it as
    one batch: its cells end in BatchNorm without gain, so that the mean features of a batch of
    either kind alone are zero. A discriminator of the family's own has no architecture to read.
    """
    family, shared = GANS[s.generator], isinstance(H.value, SharedDiscriminator)
    at = [A] if shared else []  # what H is evaluated at
    d_loss, g_loss = LOSSES[family.loss]
    d_steps = s.d_steps or family.d_steps

    @mlopt.problem(
        over=H,
        given=[G, *at],
        # Further steps have batches of their own; drawn from `train`, they would end its epoch.
        data=train if d_steps == 1 else fresh(train),
        repeat=d_steps,
        hypergrad=mlopt.Frozen(),
        **gan_adam(H, s),
    )
    def discriminator(h, g, *rest):  # Eq. 2, of H: tell real images from generated ones
        *a, (_, y, x) = rest
        real, fake = pixels.real(x), pixels.drawn(g(y))
        if shared:
            return d_loss(*h.pair(real, fake, y, a[0]()))
        loss = d_loss(h(real, y), h(fake, y))
        if family.gradient_penalty:
            loss = loss + family.gradient_penalty * gradient_penalty(h, real, fake.detach(), y)
        return loss

    @mlopt.problem(
        over=G,
        given=[H, *at],
        data=train,
        hypergrad=hypergradient_method(s, s.gan_lr),
        **gan_adam(G, s),
    )
    def generator(g, h, *rest):  # Eq. 2, of G: pass for real
        *a, (_, y, x) = rest
        fake = pixels.drawn(g(y))
        if shared:
            return g_loss(h.pair(pixels.real(x), fake, y, a[0]())[1])
        return g_loss(h(fake, y))

    return discriminator, generator


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
        phases={
            "generator": "generator alone",
            "stage1": "stage I and generator",
            "stage2": "warm-up",
            "stage3": "search",
        },
    )


scheme = Scheme("LFM-CW", search, plain=True, base=darts.scheme)

if __name__ == "__main__":
    main("lfm_cw_darts", scheme, __doc__)
