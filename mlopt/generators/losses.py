"""The two losses of the non-saturating GAN, on logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["discriminator_loss", "generator_loss"]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Loss that the discriminator minimises.

        mean softplus(-D(x)) + mean softplus(D(G(z)))
            =  - mean log p(x) - mean log(1 - p(G(z))),     p = sigmoid(D)

    Args:
        real_logits: logits of real images, (B,).
        fake_logits: logits of generated images, (B',).

    Returns:
        A scalar.
    """
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Loss that the generator minimises: mean softplus(-D(G(z))), the non-saturating form.

    Args:
        fake_logits: logits of generated images, (B,).

    Returns:
        A scalar.

    Reference: Goodfellow et al., "Generative adversarial nets", 2014, section 3.
    """
    return softplus(-fake_logits).mean()
