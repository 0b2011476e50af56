"""Conditional image generators, discriminators and their losses.

An island of plain PyTorch: it imports nothing of mlopt but its errors, its checks and `_files`.
Start reading at `families.py`, then `dcgan_generator.py`.
"""

from mlopt.generators.attention import SelfAttention
from mlopt.generators.biggan_discriminator import BigGANDiscriminator
from mlopt.generators.biggan_generator import BigGANGenerator
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm
from mlopt.generators.dcgan_discriminator import DCGANDiscriminator
from mlopt.generators.dcgan_generator import DCGANGenerator
from mlopt.generators.ema import ExponentialAverage
from mlopt.generators.families import GANS, GANFamily, make_gan
from mlopt.generators.gradient_penalty import couples_samples, gradient_penalty
from mlopt.generators.initialization import initialize
from mlopt.generators.losses import (
    LOSSES,
    discriminator_loss,
    generator_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)
from mlopt.generators.sampling import sample_grid, save_grid
from mlopt.generators.shared_discriminator import SharedDiscriminator, Trunk
from mlopt.generators.spectral import spectral_normalize
from mlopt.generators.training import train_gan
from mlopt.generators.wgan_gp_conv import WGANConvCritic, WGANConvGenerator
from mlopt.generators.wgan_gp_residual import WGANResidualCritic, WGANResidualGenerator

__all__ = [
    "BigGANDiscriminator",
    "BigGANGenerator",
    "ConditionalBatchNorm",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "ExponentialAverage",
    "GANFamily",
    "GANS",
    "LOSSES",
    "SelfAttention",
    "SharedDiscriminator",
    "Trunk",
    "WGANConvCritic",
    "WGANConvGenerator",
    "WGANResidualCritic",
    "WGANResidualGenerator",
    "couples_samples",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "initialize",
    "make_gan",
    "sample_grid",
    "save_grid",
    "spectral_normalize",
    "train_gan",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
]
