"""The gradient penalty of WGAN-GP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlopt._arguments import checked
from mlopt._errors import DataError

__all__ = ["couples_samples", "gradient_penalty"]


@checked(DataError)
def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    *condition: Any,
    u: Tensor | None = None,
) -> Tensor:
    """How far the critic's slope is from 1 between real and generated images.

        mean over i of (|grad_x D(x_i, condition_i)|_2 - 1)^2
        x_i = real_i + u_i (fake_i - real_i)

    with one u_i ~ U[0, 1] for each sample, and the norm over all pixels and channels of a sample.
    WGAN-GP adds it to the critic's loss with the factor 10:

        wasserstein_discriminator_loss(h(x, y), h(fake, y)) + 10 * gradient_penalty(h, x, fake, y)

    It can stand in an mlopt objective as it is. Its value is a first derivative, so the objective's
    gradient is a second one and a hypergradient through the critic's look-ahead a third one: the
    critic's operations must have them, which those of the GANs here do.

    Do not use it with a critic whose samples depend on each other. The formula is one slope per
    sample; with BatchNorm in training mode the score of one image is a function of the whole batch,
    and what is penalised is no slope of any sample. That is so for `DCGANDiscriminator` and for
    `SharedDiscriminator`, whose search network has BatchNorm in its operations; `couples_samples`
    tells.

    Args:
        critic: called with images and `condition`, gives scores (B,).
        real: real images, (B, C, S, S).
        fake: generated images, (B, C, S, S). Detach them unless their maker is to be
            differentiated through the penalty.
        *condition: what else the critic reads, such as the labels (B,) of both kinds of images.
        u: the places between real (0) and generated (1), (B,); by default drawn from torch's global
            generator.

    Returns:
        A scalar, not negative.

    Raises:
        DataError: real and generated images, or u, differ in shape, or are no such tensors.

    Reference: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein
    GANs", 2017, section 4.
    """
    if real.ndim < 2 or not len(real) or not real.is_floating_point():
        raise DataError(
            f"gradient_penalty: real has shape {tuple(real.shape)} and type {real.dtype}; give "
            "images (B, C, S, S), floating point."
        )
    if real.shape != fake.shape:
        raise DataError(
            f"gradient_penalty: real images have shape {tuple(real.shape)} and fake, generated "
            f"ones {tuple(fake.shape)}; give equal shapes."
        )
    if u is None:
        u = torch.rand(len(real), device=real.device, dtype=real.dtype)
    elif u.shape != (len(real),) or not u.is_floating_point():
        raise DataError(
            f"gradient_penalty: u has shape {tuple(u.shape)}; for {len(real)} images give "
            f"({len(real)},), floating point."
        )
    differentiable = torch.is_grad_enabled()
    x = real + u.view(-1, *[1] * (real.ndim - 1)) * (fake - real)
    with torch.enable_grad():  # the slope is part of the value, also under no_grad
        if not x.requires_grad:
            x.requires_grad_()
        scores = critic(x, *condition)
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=differentiable)
    norms = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (norms - 1).square().mean()


@checked(DataError)
def couples_samples(critic: nn.Module) -> bool:
    """Whether a critic has BatchNorm, so that its score of one image depends on the others.

    Such a critic and `gradient_penalty` do not go together: refuse them where both are chosen.

    Args:
        critic: the network.

    Returns:
        True if a part of it is a BatchNorm of any kind, in whatever mode.

    Raises:
        DataError: it is no module.
    """
    return any(isinstance(part, _BatchNorm) for part in critic.modules())
