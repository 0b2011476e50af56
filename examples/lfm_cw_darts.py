"""LFM-CW on DARTS: learning from mistakes based on class weighting (Gala and Xie).

A classifier W1 is trained and makes mistakes; a conditional generator G draws images of each class;
a second classifier W2 is trained on real images and on generated ones, weighted by W1's validation
loss of their class; the architecture A that all of them share is judged by W2's validation loss.

    python examples/lfm_cw_darts.py                      # digits, a few minutes on two CPU cores
    python examples/lfm_cw_darts.py --preset paper --dataset cifar10 --data-root data --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from pipeline import Search, adam, hypergradient_method, main, sgd
from settings import Settings
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import mlopt
from mlopt.data import ImageData
from mlopt.generators import (
    DCGANDiscriminator,
    DCGANGenerator,
    SharedDiscriminator,
    discriminator_loss,
    generator_loss,
)
from mlopt.nas import Architecture, ClassLosses, Supernet


@dataclass
class Networks:
    """The architecture, and the four networks."""

    a: Architecture
    w1: Supernet
    w2: Supernet
    g: DCGANGenerator
    h: nn.Module

    @classmethod
    def make(cls, data: ImageData, s: Settings) -> Networks:
        def supernet() -> Supernet:
            return Supernet(s.channels, s.cells, data.classes, s.nodes, data.channels)

        images = (data.image_size, data.channels, data.classes)
        own = s.discriminator == "own"
        return cls(
            a=Architecture(s.nodes),
            w1=supernet(),
            w2=supernet(),
            g=DCGANGenerator(*images, z=s.noise, width=s.generator_width),
            h=DCGANDiscriminator(*images) if own else SharedDiscriminator(supernet(), data.classes),
        )


def lfm_cw(nets: Networks, train, valid, data: ImageData, s: Settings) -> mlopt.Engine:
    """The graph of the paper; `train` gives (images, labels, images without augmentation)."""
    A, W1, W2 = (
        mlopt.Variable(nets.a, "a"),
        mlopt.Variable(nets.w1, "w1"),
        mlopt.Variable(nets.w2, "w2"),
    )
    G, H = mlopt.Variable(nets.g, "g"), mlopt.Variable(nets.h, "h")
    to_images = data.normalization.from_generator  # from [-1, 1] to what classifiers read
    method, gan_method, schedule = hypergradient_method(s), hypergradient_method(s, s.gan_lr), None
    if s.order == "first":
        schedule = mlopt.Sequential()
    first, second = s.generator_epochs, s.generator_epochs + s.pretrain
    state = ClassLosses(data.classes, normalize=cast(Any, s.class_loss_normalization))

    @mlopt.problem(over=W1, given=[A], data=train, clip=s.clip, start=first, **sgd(W1, s))
    def stage1(w1, a, batch):  # Eq. 1
        x, y, _ = batch
        return cross_entropy(w1(x, a()), y)

    discriminator, generator = gan(G, H, A, train, to_images, gan_method, s)  # Eq. 2

    @mlopt.signal(given=[W1, A], data=valid, state=state)
    def class_losses(w1, a, batch):  # l_c(A, W1*, D_val) in Eq. 3
        x, y = batch
        return state(cross_entropy(w1(x, a()), y, reduction="none"), y)

    @mlopt.signal(given=[G], data=train)
    def synthetic(g, batch):  # x_cm = f(c, noise, G*) in Eq. 3
        _, y, _ = batch
        return to_images(g(y))

    @mlopt.problem(
        over=W2,
        given=[A, class_losses, synthetic],
        data=train,
        clip=s.clip,
        start=second,
        **sgd(W2, s),
    )
    def stage2(w2, a, weights, fake, batch):  # Eq. 3
        x, y, _ = batch
        mistakes = cross_entropy(w2(fake, a()), y, reduction="none")
        return cross_entropy(w2(x, a()), y) + s.lambda_ * (weights[y] * mistakes).mean()

    @mlopt.problem(over=A, given=[W2], data=valid, start=second + s.warmup, optimizer=adam(A, s))
    def stage3(a, w2, batch):  # Eq. 4
        x, y = batch
        return cross_entropy(w2(x, a()), y)

    return mlopt.Engine(
        [stage1, discriminator, generator, class_losses, synthetic, stage2, stage3],
        hypergrad=method,
        schedule=schedule,
        device=s.device,
        seed=s.seed,
    )


def gan(G, H, A, train, to_images, method, s: Settings) -> tuple[mlopt.Problem, mlopt.Problem]:
    """Eq. 2: H against G; by default H is the search network at the architecture A."""
    shared = s.discriminator == "shared"
    d_options = {"over": H, "data": train, **gan_adam(H, s), "hypergrad": mlopt.Frozen()}
    g_options = {"over": G, "data": train, **gan_adam(G, s), "hypergrad": method}

    if not shared:

        @mlopt.problem(given=[G], **d_options)
        def own_discriminator(h, g, batch):
            _, y, real = batch
            return discriminator_loss(h(real, y), h(to_images(g(y)), y))

        @mlopt.problem(given=[H], **g_options)
        def own_generator(g, h, batch):
            _, y, _ = batch
            return generator_loss(h(to_images(g(y)), y))

        return own_discriminator, own_generator

    # Real and generated images of a step go through H as one batch: its cells end in BatchNorm
    # without gain, so that the mean features of a batch of either kind alone are zero.

    @mlopt.problem(given=[G, A], **d_options)
    def discriminator(h, g, a, batch):
        _, y, real = batch
        return discriminator_loss(*h.pair(real, to_images(g(y)), y, a()))

    @mlopt.problem(given=[H, A], **g_options)
    def generator(g, h, a, batch):
        _, y, real = batch
        return generator_loss(h.pair(real, to_images(g(y)), y, a())[1])

    return discriminator, generator


def gan_adam(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer and scheduler of a GAN's two players: Adam, cosine over the whole run."""
    optimizer = torch.optim.Adam(variable.parameters(), s.gan_lr, betas=(s.gan_beta1, 0.999))
    epochs = s.generator_epochs + s.pretrain + s.epochs
    scheduler = CosineAnnealingLR(optimizer, epochs, eta_min=min(s.gan_min_lr, s.gan_lr))
    return {"optimizer": optimizer, "scheduler": scheduler}


def scheme(data: ImageData, train, valid, s: Settings) -> Search:
    """The networks and the graph, ready to run."""
    nets = Networks.make(data, s)
    for network in (nets.a, nets.w1, nets.w2, nets.g, nets.h):
        network.to(s.device)
    return Search(
        engine=lfm_cw(nets, train, valid, data, s),
        architecture=nets.a,
        classifier=nets.w2,
        networks=(nets.w1, nets.w2, nets.g, nets.h),
        epochs=s.generator_epochs + s.pretrain + s.epochs,
        generator=nets.g,
    )


if __name__ == "__main__":
    main("lfm_cw_darts", scheme, __doc__, plain=True)
