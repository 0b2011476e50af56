"""Spectral normalisation of a whole network."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mlopt._arguments import checked
from mlopt._errors import SettingsError

__all__ = ["spectral_normalize"]

# Keeps the division by the length of u and v safe; it never acts on a weight that is not zero.
_EPS = 1e-8


@checked(SettingsError)
def spectral_normalize(module: nn.Module, *, embeddings: bool = False) -> None:
    """Divide the weight of every convolution and linear map by its largest singular value.

        W / s,    s = u^T W v,    u <- W v / |W v|,    v <- W^T u / |W^T u|

    W is the weight as a matrix of outputs by the rest. A pass in training mode makes one step of
    the power iteration on the buffers u and v; a pass in evaluation mode leaves them. u and v count
    as constants in derivatives. The first derivative is therefore right once the iteration has
    converged; the second lacks the turn of u and v, which differences see.

    In an engine, use it as it is: u and v are buffers like those of BatchNorm. For a check of
    derivatives by differences, put the network in evaluation mode.

    Args:
        module: the network; it is changed in place. Its parameters are then those before the
            division, named `...parametrizations.weight.original`.
        embeddings: normalise embeddings as well.

    Raises:
        SettingsError: an argument is not what it must be.

    Reference: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial
    networks", ICLR 2018.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    if embeddings:
        kinds += (nn.Embedding,)
    for part in list(module.modules()):
        if isinstance(part, kinds):
            spectral_norm(part, eps=_EPS)
