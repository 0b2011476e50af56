"""The settings of the NAS examples: what they are, and what values they may have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlopt import SettingsError
from mlopt.generators import GANS
from mlopt.nas import SCHEDULES

DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100", "imagenet")
SPACE_NAMES = ("darts", "p-darts", "pc-darts", "darts-minus")


def _option(default: Any, meaning: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": meaning, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; it is written into the run folder."""

    dataset: str = _option("digits", "data set", *DATASETS)
    data_root: str = _option("", "folder of the data set's files, where it needs one")
    image_size: int = _option(0, "side of the images of a data set of files (0: its own)")
    seed: int = _option(0, "of all randomness")
    device: str = _option("cpu", "cpu, cuda, cuda:1, ...")
    workers: int = _option(0, "processes that load images")
    run_folder: str = _option(
        "", "where the run is written (default: runs/<example>-<space>-<dataset>-seed<seed>)"
    )
    overwrite: bool = _option(False, "replace an earlier run in that folder")
    train_images: int = _option(0, "use that many training images only (0: all)")

    space: str = _option("darts", "search space", *SPACE_NAMES)
    form: str = _option(
        "auto", "of the supernets' stem: auto is imagenet for that data set", *("auto", "cifar"),
        "imagenet",
    )  # fmt: skip
    compile: str = _option(
        "", "evaluate the search's problems through torch.compile with this backend: inductor, ..."
    )
    channels_last: bool = _option(False, "memory format of networks, for GPUs")
    bf16: bool = _option(
        False, "networks compute in bfloat16 (autocast); of the first order, or with exact products"
    )
    order: str = _option("second", "of the hypergradients", "first", "second")
    product: str = _option("central", "second-order products", "central", "one-sided", "exact")
    radius: float = _option(0.01, "norm of the displacement in finite differences")
    steps: str = _option(
        "lower-first", "order of the updates (plain search)", "lower-first", "upper-first"
    )
    lambda_: float = _option(
        1.0, "weight in stage II of the generated images (LFM-CW) or the pseudo-labels (SGL)"
    )
    class_loss_normalization: str = _option("none", "of l_c", "none", "mean", "softmax")

    beside_plain: bool = _option(False, "run the plain search, too, with the same settings")
    learners: int = _option(2, "in the group (SGL; 1: the plain search)")
    unlabeled: str = _option(
        "auto",
        "images without labels (SGL): of the other CIFAR, or held out of the training images",
        "auto",
        "held-out",
        "cifar10",
        "cifar100",
    )
    unlabeled_root: str = _option("", "folder of their files (default: data_root)")
    retrain: str = _option("best", "whose genotypes are retrained (SGL)", "best", "all")

    channels: int = _option(16, "of the first cell of the supernets")
    cells: int = _option(8, "of the supernets; of P-DARTS' first stage")
    nodes: int = _option(4, "intermediate nodes of a cell")
    epochs: int = _option(50, "of the search; of each stage of P-DARTS")
    pretrain: int = _option(0, "epochs of stage I alone before the search")
    warmup: int = _option(0, "first epochs of the search that do not update the architecture")
    batch_size: int = _option(64, "of the search")
    lr: float = _option(0.025, "of the weights, at first")
    min_lr: float = _option(0.001, "of the weights, at last (cosine)")
    lr_warmup: int = _option(0, "first epochs, over which the weights' lr rises to its value")
    momentum: float = _option(0.9, "of the weights")
    weight_decay: float = _option(3e-4, "of the weights")
    clip: float = _option(5.0, "greatest norm of a weight gradient")
    arch_lr: float = _option(3e-4, "of the architecture")
    arch_weight_decay: float = _option(1e-3, "of the architecture")
    arch_clip: float = _option(0.0, "greatest norm of an architecture gradient (0: any)")
    stop_on_collapse: bool = _option(False, "end a search whose normal cell is mostly skips")

    add_cells: tuple[int, ...] = _option((0, 6, 12), "cells that each stage adds (P-DARTS)")
    drop: tuple[int, ...] = _option((3, 2, 2), "operations that leave an edge a stage (P-DARTS)")
    skip_dropout: tuple[float, ...] = _option((0.1, 0.4, 0.7), "of each stage at first (P-DARTS)")
    most_skips: int = _option(2, "skips that the normal cell may keep (P-DARTS; -1: any)")
    partial: int = _option(
        0, "one in so many channels is mixed (PC-DARTS; 0: the form's own, 4 or 2)"
    )
    auxiliary_skip: str = _option("skip", "added to every edge (DARTS-)", "skip", "conv")
    skip_decay: str = _option(
        "linear", "of the auxiliary skip (DARTS-)", "linear", "cosine", "slow-cosine", "none"
    )

    generator: str = _option("dcgan", "family of the generator", *GANS)
    generator_size: int = _option(0, "side of its images, enlarged if need be (0: the data's)")
    discriminator: str = _option(
        "auto",
        "H: the search network at A, or the family's own; auto is shared, but own for wgan-gp",
        "auto",
        "shared",
        "own",
    )
    noise: int = _option(0, "numbers of noise an image (0: the family's own)")
    generator_width: int = _option(0, "unit of the GAN's channels (0: the family's own)")
    generator_epochs: int = _option(0, "epochs of the GAN alone, before everything else")
    gan_lr: float = _option(2e-4, "of generator and discriminator")
    gan_min_lr: float = _option(2e-4, "of generator and discriminator, at last (cosine)")
    gan_beta1: float = _option(-1.0, "of their Adam (-1: the family's own)")
    d_steps: int = _option(1, "discriminator steps a generator step (0: the family's own)")
    ema: float = _option(0.0, "decay of an averaged generator, whose images W2 learns (0: none)")
    images_per_class: int = _option(
        0, "M of Eq. 3: generated images of each class, summed (0: one for each image, mean)"
    )
    synthetic_only: bool = _option(False, "W2 learns from generated images alone (Eq. 19)")

    eval_channels: int = _option(36, "of the retrained network")
    eval_cells: int = _option(20, "of the retrained network")
    eval_form: str = _option(
        "auto", "of the retrained network: auto is imagenet for that data set", *("auto", "cifar"),
        "imagenet",
    )  # fmt: skip
    eval_epochs: int = _option(600, "of retraining")
    eval_batch_size: int = _option(96, "of retraining")
    eval_lr: float = _option(0.025, "of retraining, at first")
    eval_schedule: str = _option("cosine", "of its learning rate, towards 0", *SCHEDULES)
    eval_warmup: int = _option(0, "first epochs of retraining, over which its lr rises")
    eval_weight_decay: float = _option(3e-4, "of retraining")
    eval_label_smoothing: float = _option(0.0, "of retraining")
    eval_seeds: int = _option(1, "networks that are retrained, for mean and deviation")
    auxiliary: float = _option(0.4, "weight of the auxiliary head's loss (0: no head)")
    drop_path: float = _option(0.3, "drop path at last")
    cutout: int = _option(16, "side of the hole (0: none)")

    def run_path(self, example: str) -> Path:
        """The run folder."""
        space = "" if self.space == "darts" else f"-{self.space}"
        return Path(self.run_folder or f"runs/{example}{space}-{self.dataset}-seed{self.seed}")


_LEAST = {"learners": 1, "gan_beta1": -1, "most_skips": -1}
_POSITIVE = (
    "channels", "cells", "nodes", "epochs", "batch_size", "lr", "arch_lr", "radius",
    "clip", "gan_lr", "eval_channels", "eval_cells", "eval_epochs",
    "eval_batch_size", "eval_lr", "eval_seeds",
)  # fmt: skip
_BELOW_ONE = ("gan_beta1", "ema", "eval_label_smoothing", "drop_path", "momentum")


def checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values as the settings need them, each by name.

    Args:
        values: by the names of `Settings`.
        where: they come from, for errors.

    Raises:
        SettingsError: there is no such setting, or it cannot have that value.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise SettingsError(
            f"{where}: there is no setting {unknown[0]!r}; known are {', '.join(fields)}."
        )
    return {name: _value(fields[name], value, where) for name, value in values.items()}


def _value(f: dataclasses.Field[Any], value: Any, where: str) -> Any:
    given = f"{where}: {f.name} = {value!r}"
    if isinstance(f.default, tuple):
        kind = type(f.default[0])
        if not isinstance(value, list | tuple) or not value:
            raise SettingsError(f"{given} must be a list of {kind.__name__}.")
        return tuple(_number(f.name, kind, v, f"{given}: {v!r}") for v in value)
    value = _number(f.name, type(f.default), value, given)
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"{given} must be one of {', '.join(choices)}.")
    return value


def _number(name: str, kind: type, value: Any, given: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise SettingsError(f"{given} must be of type {kind.__name__}.")
    if kind in (int, float):
        if not value >= _LEAST.get(name, 0) or (name in _POSITIVE and value == 0):
            raise SettingsError(f"{given} is too small.")
        if value == float("inf") or (name in _BELOW_ONE and value >= 1):
            raise SettingsError(f"{given} is too large.")
    return value
