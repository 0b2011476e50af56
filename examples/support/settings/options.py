"""The settings of the examples that search and evaluate architectures, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlopt import SettingsError
from mlopt.generators import GANS
from mlopt.nas import SCHEDULES

DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100", "imagenet")
LOGGERS = ("console", "tensorboard", "wandb")
PRECISIONS = ("float32", "bf16", "fp16")
SPACE_NAMES = ("darts", "p-darts", "pc-darts", "darts-minus")


def option(default: Any, meaning: str, *choices: str) -> Any:
    """A field of a dataclass of settings, with what the command line says of it."""
    return field(default=default, metadata={"help": meaning, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; it is written into the run folder."""

    dataset: str = option("digits", "data set", *DATASETS)
    data_root: str = option("", "folder of the data set's files, where it needs one")
    image_size: int = option(0, "side of the images of a data set of files (0: its own)")
    seed: int = option(0, "of all randomness")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    threads: int = option(0, "of the CPU that torch computes with (0: as many as it takes)")
    workers: int = option(0, "processes that load images")
    run_folder: str = option(
        "", "where the run is written (default: runs/<example>-<space>-<dataset>-seed<seed>)"
    )
    overwrite: bool = option(False, "replace an earlier run in that folder")
    loggers: str = option("", f"besides metrics.jsonl, with commas between: {', '.join(LOGGERS)}")
    checkpoint_every: int = option(
        0, "steps between two checkpoints of a search (0: when they take a hundredth of its time)"
    )
    train_images: int = option(0, "use that many training images only (0: all)")

    space: str = option("darts", "search space", *SPACE_NAMES)
    form: str = option(
        "auto", "of the supernets' stem: auto is imagenet for that data set", *("auto", "cifar"),
        "imagenet",
    )  # fmt: skip
    compile: str = option(
        "", "evaluate the search's problems through torch.compile with this backend: inductor, ..."
    )
    channels_last: bool = option(False, "memory format of networks, for GPUs")
    precision: str = option(
        "float32",
        "of the search, under autocast; retraining has no loss scale: with fp16 it is in float32",
        *PRECISIONS,
    )
    order: str = option("second", "of the hypergradients", "first", "second")
    product: str = option("exact", "second-order products", "exact", "central", "one-sided")
    radius: float = option(0.01, "norm of the displacement in finite differences")
    steps: str = option(
        "lower-first", "order of the updates (plain search)", "lower-first", "upper-first"
    )
    lambda_: float = option(
        1.0, "weight in stage II of the generated images (LFM-CW) or the pseudo-labels (SGL)"
    )
    class_loss_normalization: str = option("none", "of l_c", "none", "mean", "softmax")

    beside_plain: bool = option(False, "run the plain search, too, with the same settings")
    learners: int = option(2, "in the group (SGL; 1: the plain search)")
    unlabeled: str = option(
        "auto",
        "images without labels (SGL): of the other CIFAR, or held out of the training images",
        "auto",
        "held-out",
        "cifar10",
        "cifar100",
    )
    unlabeled_root: str = option("", "folder of their files (default: data_root)")
    retrain: str = option("best", "whose genotypes are retrained (SGL)", "best", "all")

    channels: int = option(16, "of the first cell of the supernets")
    cells: int = option(8, "of the supernets; of P-DARTS' first stage")
    nodes: int = option(4, "intermediate nodes of a cell")
    epochs: int = option(50, "of the search; of each stage of P-DARTS")
    pretrain: int = option(0, "epochs of stage I alone before the search")
    warmup: int = option(0, "first epochs of the search that do not update the architecture")
    batch_size: int = option(64, "of the search")
    parts: int = option(1, "of a batch of the search, one after another, in the memory of one")
    lr: float = option(0.025, "of the weights, at first")
    min_lr: float = option(0.001, "of the weights, at last (cosine)")
    lr_warmup: int = option(0, "first epochs, over which the weights' lr rises to its value")
    momentum: float = option(0.9, "of the weights")
    weight_decay: float = option(3e-4, "of the weights")
    clip: float = option(5.0, "greatest norm of a weight gradient")
    arch_lr: float = option(3e-4, "of the architecture")
    arch_weight_decay: float = option(1e-3, "of the architecture")
    arch_clip: float = option(0.0, "greatest norm of an architecture gradient (0: any)")
    stop_on_collapse: bool = option(False, "end a search whose normal cell is mostly skips")

    add_cells: tuple[int, ...] = option((0, 6, 12), "cells that each stage adds (P-DARTS)")
    drop: tuple[int, ...] = option((3, 2, 2), "operations that leave an edge a stage (P-DARTS)")
    skip_dropout: tuple[float, ...] = option((0.1, 0.4, 0.7), "of each stage at first (P-DARTS)")
    most_skips: int = option(2, "skips that the normal cell may keep (P-DARTS; -1: any)")
    partial: int = option(
        0, "one in so many channels is mixed (PC-DARTS; 0: the form's own, 4 or 2)"
    )
    auxiliary_skip: str = option("skip", "added to every edge (DARTS-)", "skip", "conv")
    skip_decay: str = option(
        "linear", "of the auxiliary skip (DARTS-)", "linear", "cosine", "slow-cosine", "none"
    )

    generator: str = option("dcgan", "family of the generator", *GANS)
    generator_size: int = option(0, "side of its images, enlarged if need be (0: the data's)")
    discriminator: str = option(
        "auto",
        "H: the search network at A, or the family's own; auto is shared, but own for wgan-gp",
        "auto",
        "shared",
        "own",
    )
    noise: int = option(0, "numbers of noise an image (0: the family's own)")
    generator_width: int = option(0, "unit of the GAN's channels (0: the family's own)")
    generator_epochs: int = option(0, "epochs of the GAN alone, before everything else")
    gan_lr: float = option(2e-4, "of generator and discriminator")
    gan_min_lr: float = option(2e-4, "of generator and discriminator, at last (cosine)")
    gan_beta1: float = option(-1.0, "of their Adam (-1: the family's own)")
    d_steps: int = option(1, "discriminator steps a generator step (0: the family's own)")
    ema: float = option(0.0, "decay of an averaged generator, whose images W2 learns (0: none)")
    images_per_class: int = option(
        0, "M of Eq. 3: generated images of each class, summed (0: one for each image, mean)"
    )
    synthetic_only: bool = option(False, "W2 learns from generated images alone (Eq. 19)")

    eval_channels: int = option(36, "of the retrained network")
    eval_cells: int = option(20, "of the retrained network")
    eval_form: str = option(
        "auto", "of the retrained network: auto is imagenet for that data set", *("auto", "cifar"),
        "imagenet",
    )  # fmt: skip
    eval_epochs: int = option(600, "of retraining")
    eval_batch_size: int = option(96, "of retraining")
    eval_lr: float = option(0.025, "of retraining, at first")
    eval_schedule: str = option("cosine", "of its learning rate, towards 0", *SCHEDULES)
    eval_warmup: int = option(0, "first epochs of retraining, over which its lr rises")
    eval_weight_decay: float = option(3e-4, "of retraining")
    eval_label_smoothing: float = option(0.0, "of retraining")
    eval_seeds: int = option(1, "networks that are retrained, for mean and deviation")
    auxiliary: float = option(0.4, "weight of the auxiliary head's loss (0: no head)")
    drop_path: float = option(0.3, "drop path at last")
    cutout: int = option(16, "side of the hole (0: none)")

    def __post_init__(self) -> None:
        if self.min_lr > self.lr:
            raise SettingsError(
                f"min_lr = {self.min_lr} is above lr = {self.lr}, from which it falls: give both."
            )

        if unknown := [name for name in self.logger_names if name not in LOGGERS]:
            raise SettingsError(
                f"loggers = {self.loggers!r}: there is no {unknown[0]!r}; give any of "
                f"{', '.join(LOGGERS)}, with commas between."
            )

    @property
    def logger_names(self) -> list[str]:
        """The loggers besides metrics.jsonl."""
        return [name for part in self.loggers.split(",") if (name := part.strip())]

    def run_path(self, example: str) -> Path:
        """The run folder."""
        space = "" if self.space == "darts" else f"-{self.space}"
        return Path(self.run_folder or f"runs/{example}{space}-{self.dataset}-seed{self.seed}")
