"""Conditional image generators, discriminators and their losses."""

from mlopt.generators.dcgan_discriminator import DCGANDiscriminator
from mlopt.generators.dcgan_generator import DCGANGenerator
from mlopt.generators.losses import discriminator_loss, generator_loss
from mlopt.generators.sampling import sample_grid, save_grid
from mlopt.generators.shared_discriminator import SharedDiscriminator, Trunk
from mlopt.generators.training import train_gan

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "SharedDiscriminator",
    "Trunk",
    "discriminator_loss",
    "generator_loss",
    "sample_grid",
    "save_grid",
    "train_gan",
]
