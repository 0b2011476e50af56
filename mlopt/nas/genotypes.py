"""Published genotypes, and where a genotype comes from: one of them, or a file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.nas.genotype import Genotype

__all__ = ["GENOTYPES", "load_genotype"]

_SHORT = {
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
    "sk": "skip_connect",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "c7": "conv_7x1_1x7",
}


def _cell(text: str) -> tuple[tuple[str, int], ...]:
    """Read 's3@0 s3@1 | sk@0 d3@2': operation @ source, nodes separated by bars."""
    pairs = (pair.split("@") for pair in text.replace("|", " ").split())
    return tuple((_SHORT[operation], int(source)) for operation, source in pairs)


def _genotype(
    normal: str,
    reduce: str,
    normal_concat: tuple[int, ...] = (2, 3, 4, 5),
    reduce_concat: tuple[int, ...] = (2, 3, 4, 5),
) -> Genotype:
    return Genotype(_cell(normal), normal_concat, _cell(reduce), reduce_concat)


GENOTYPES: dict[str, Genotype] = {
    # Zoph, Vasudevan, Shlens, Le, "Learning Transferable Architectures for Scalable Image
    # Recognition", CVPR 2018.
    "NASNet": _genotype(
        "s5@1 s3@0 | s5@0 s3@0 | ap@1 sk@0 | ap@0 ap@0 | s3@1 sk@1",
        "s5@1 s7@0 | mp@1 s7@0 | ap@1 s5@0 | sk@3 ap@2 | s3@2 mp@1",
        (2, 3, 4, 5, 6),
        (4, 5, 6),
    ),
    # Real, Aggarwal, Huang, Le, "Regularized Evolution for Image Classifier Architecture Search",
    # AAAI 2019.
    "AmoebaNet": _genotype(
        "ap@0 mp@1 | s3@0 s5@2 | s3@0 ap@3 | s3@1 sk@1 | sk@0 ap@1",
        "ap@0 s3@1 | mp@0 s7@2 | s7@0 ap@1 | mp@0 mp@1 | c7@0 s3@5",
        (4, 5, 6),
        (3, 4, 6),
    ),
    # Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019: first and second
    # order.
    "DARTS_V1": _genotype(
        "s3@1 s3@0 | sk@0 s3@1 | sk@0 s3@1 | s3@0 sk@2",
        "mp@0 mp@1 | sk@2 mp@0 | mp@0 sk@2 | sk@2 ap@0",
    ),
    "DARTS_V2": _genotype(
        "s3@0 s3@1 | s3@0 s3@1 | s3@1 sk@0 | sk@0 d3@2",
        "mp@0 mp@1 | sk@2 mp@1 | mp@0 sk@2 | sk@2 mp@1",
    ),
    # Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search",
    # ICLR 2020.
    "PC_DARTS_cifar": _genotype(
        "s3@1 sk@0 | s3@0 d3@1 | s5@0 s3@1 | ap@0 d3@1",
        "s5@1 mp@0 | s5@1 s5@2 | s3@0 s3@3 | s3@1 s3@2",
    ),
    "PC_DARTS_image": _genotype(
        "sk@1 s3@0 | s3@0 sk@1 | s3@1 s3@3 | s3@1 d5@4",
        "s3@0 sk@1 | d5@2 mp@1 | s3@2 s3@1 | s5@0 s3@3",
    ),
    # Chen, Xie, Wu, Tian, "Progressive Differentiable Architecture Search", ICCV 2019.
    "PDARTS": _genotype(
        "sk@0 d3@1 | sk@0 s3@1 | s3@1 s3@3 | s3@0 d5@4",
        "ap@0 s5@1 | s3@0 d5@2 | mp@0 d3@1 | d3@1 d5@3",
    ),
    # Chu et al., "DARTS-: Robustly Stepping out of Performance Collapse without Indicators", ICLR
    # 2021: searches with different seeds in DARTS' space (S0), on CIFAR-10 and on CIFAR-100. The
    # first of each is the best one.
    "DARTS_minus_cifar10_s0_0": _genotype(
        "s3@0 s5@1 | s3@1 d3@2 | sk@1 s3@0 | sk@1 s3@0",
        "s3@0 mp@1 | sk@2 mp@0 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar10_s0_1": _genotype(
        "s3@0 d5@1 | s3@0 s3@1 | d5@1 s3@0 | sk@1 s3@0",
        "s3@1 mp@0 | sk@2 mp@1 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar10_s0_2": _genotype(
        "s5@1 s3@0 | s3@0 s3@1 | sk@1 s5@0 | s3@0 sk@1",
        "s3@1 s3@0 | sk@2 mp@1 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar10_s0_3": _genotype(
        "s3@0 s3@1 | s3@0 s3@1 | s3@0 d5@1 | sk@1 sk@0",
        "mp@0 mp@1 | sk@2 s5@0 | sk@3 sk@2 | sk@3 sk@2",
    ),
    "DARTS_minus_cifar10_s0_4": _genotype(
        "s3@0 s5@1 | s3@1 s3@0 | sk@1 d3@0 | sk@1 s5@0",
        "mp@0 mp@1 | mp@0 sk@2 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar100_s0_0": _genotype(
        "d5@0 d3@1 | s3@1 d3@0 | d5@0 d3@1 | s3@1 d5@0",
        "mp@0 s5@1 | sk@2 s5@0 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar100_s0_1": _genotype(
        "s3@1 d3@0 | d5@1 d5@0 | d5@1 d3@0 | s3@1 s3@0",
        "ap@1 ap@0 | ap@1 sk@2 | sk@2 ap@1 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar100_s0_2": _genotype(
        "d3@0 s3@1 | d3@0 s5@1 | s3@1 d3@0 | sk@1 d3@0",
        "ap@1 sk@0 | sk@2 ap@1 | sk@2 sk@3 | sk@2 sk@3",
    ),
    "DARTS_minus_cifar100_s0_3": _genotype(
        "d5@0 s5@1 | s3@0 sk@1 | s3@1 s3@0 | sk@1 d3@0",
        "s3@1 s3@0 | sk@2 ap@0 | sk@2 sk@3 | sk@2 sk@3",
    ),
    # Du and Xie, "Small-Group Learning, with Application to Neural Architecture Search", 2020: the
    # authors' searches on CIFAR-100, plain DARTS of first order and the first learner of SGL on it.
    "DARTS_CIFAR100_1ST": _genotype(
        "sk@0 sk@1 | sk@0 s3@1 | sk@0 sk@1 | sk@0 sk@1",
        "ap@0 ap@1 | sk@2 ap@0 | ap@0 sk@2 | sk@2 ap@0",
    ),
    "SGL_DARTS_CIFAR100_1ST": _genotype(
        "s3@0 s3@1 | sk@0 sk@1 | sk@0 sk@1 | sk@0 sk@1",
        "sk@1 ap@0 | ap@0 d5@2 | sk@2 ap@0 | sk@2 ap@0",
    ),
}
"""Genotypes by name."""


@checked(SettingsError)
def load_genotype(name_or_file: str | Path) -> Genotype:
    """Return a published genotype, or one that a search has written.

    Args:
        name_or_file: a key of `GENOTYPES`, a file as `Genotype.to_json` makes it, a run folder with
            such a file, `genotype.json`, or a file with a line as the authors' repositories print
            it (see `Genotype.from_text`).

    Returns:
        The genotype.

    Raises:
        SettingsError: if it is none of these, or the file describes no genotype.
    """
    if name_or_file in GENOTYPES:
        return GENOTYPES[str(name_or_file)]
    path = Path(name_or_file)
    if os.path.isdir(path):  # which takes any name
        path = path / "genotype.json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        plain = text.lstrip().startswith(("{", "[")) or path.suffix == ".json"
        return Genotype.from_json(text) if plain else Genotype.from_text(text)
    except FileNotFoundError as error:
        names = {name.lower(): name for name in GENOTYPES}
        close = difflib.get_close_matches(str(name_or_file).lower(), names, n=3)
        hint = f" Did you mean {', '.join(names[name] for name in close)}?" if close else ""
        raise SettingsError(
            f"load_genotype: {str(name_or_file)!r} is no published genotype, and there is no file "
            f"{path}.{hint} Published are: {', '.join(GENOTYPES)}."
        ) from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"load_genotype: {path} cannot be read: {error}.") from error
    except SettingsError as error:
        raise SettingsError(f"load_genotype: {path} describes no genotype. {error}") from error
