"""The losses of GANs, on logits: non-saturating, hinge and Wasserstein."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import relu, softplus

from mlopt.generators._dcgan import check_logits

__all__ = [
    "LOSSES",
    "discriminator_loss",
    "generator_loss",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Loss that the discriminator minimises.

        mean softplus(-D(x)) + mean softplus(D(G(z)))
            =  - mean log p(x) - mean log(1 - p(G(z))),     p = sigmoid(D)

    Args:
        real_logits: logits of real images, (B,).
        fake_logits: logits of generated images, (B',).

    Returns:
        A scalar.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.
    """
    check_logits("discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Loss that the generator minimises: mean softplus(-D(G(z))), the non-saturating form.

    Args:
        fake_logits: logits of generated images, (B,).

    Returns:
        A scalar.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.

    Reference: Goodfellow et al., "Generative adversarial nets", 2014, section 3.
    """
    check_logits("generator_loss", fake_logits=fake_logits)
    return softplus(-fake_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Loss that BigGAN's discriminator minimises: mean relu(1 - D(x)) + mean relu(1 + D(G(z))).

    Its gradient ends where a logit is on the right side by more than 1, and its second derivative
    by the logits is 0.

    Args:
        real_logits: logits of real images, (B,).
        fake_logits: logits of generated images, (B',).

    Returns:
        A scalar.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.

    Reference: Lim, Ye, "Geometric GAN", 2017; Brock, Donahue, Simonyan, "Large scale GAN training
    for high fidelity natural image synthesis", 2019.
    """
    check_logits("hinge_discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Loss of the generator against a hinge discriminator: - mean D(G(z)).

    Args:
        fake_logits: logits of generated images, (B,).

    Returns:
        A scalar.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.
    """
    check_logits("hinge_generator_loss", fake_logits=fake_logits)
    return -fake_logits.mean()


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Loss that a Wasserstein critic minimises: mean D(G(z)) - mean D(x).

    It has no lower bound: do not use it without something that keeps the critic Lipschitz, such as
    `gradient_penalty`.

    Args:
        real_logits: the critic's scores of real images, (B,).
        fake_logits: its scores of generated images, (B',).

    Returns:
        A scalar, minus the critic's estimate of the distance.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.

    Reference: Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017.
    """
    check_logits("wasserstein_discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    return fake_logits.mean() - real_logits.mean()


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """Loss of the generator against a Wasserstein critic: - mean D(G(z)).

    Args:
        fake_logits: the critic's scores of generated images, (B,).

    Returns:
        A scalar.

    Raises:
        DataError: the logits are no tensors of floating-point numbers, or empty.
    """
    check_logits("wasserstein_generator_loss", fake_logits=fake_logits)
    return -fake_logits.mean()


#: By name, the discriminator's loss (real logits, fake logits) and the generator's (fake logits).
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "non-saturating": (discriminator_loss, generator_loss),
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "wasserstein": (wasserstein_discriminator_loss, wasserstein_generator_loss),
}
