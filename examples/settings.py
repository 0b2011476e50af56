"""The settings of the NAS examples: presets from `configs/*.toml`, the command line over them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlopt import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIGS = Path(__file__).parent / "configs"
#: Those that may have a table of their own in a preset.
EXAMPLES = ("darts", "lfm_cw_darts", "sgl_darts")


def _option(default: Any, meaning: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": meaning, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; it is written into the run folder."""

    dataset: str = _option("digits", "data set", "digits", "fashion-mnist", "cifar10", "cifar100")
    data_root: str = _option("", "folder of the data set's files, where it needs one")
    seed: int = _option(0, "of all randomness")
    device: str = _option("cpu", "cpu, cuda, cuda:1, ...")
    run_folder: str = _option(
        "", "where the run is written (default: runs/<example>-<dataset>-<seed>)"
    )
    overwrite: bool = _option(False, "replace an earlier run in that folder")
    train_images: int = _option(0, "use that many training images only (0: all)")

    order: str = _option("second", "of the hypergradients", "first", "second")
    product: str = _option("central", "second-order products", "central", "one-sided", "exact")
    radius: float = _option(0.01, "norm of the displacement in finite differences")
    steps: str = _option(
        "lower-first", "order of the updates (plain DARTS)", "lower-first", "upper-first"
    )
    lambda_: float = _option(
        1.0, "weight in stage II of the generated images (LFM-CW) or the pseudo-labels (SGL)"
    )
    class_loss_normalization: str = _option("none", "of l_c", "none", "mean", "softmax")

    learners: int = _option(2, "in the group (SGL)")
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
    cells: int = _option(8, "of the supernets")
    nodes: int = _option(4, "intermediate nodes of a cell")
    epochs: int = _option(50, "of the search")
    pretrain: int = _option(0, "epochs of stage I alone before the search")
    warmup: int = _option(0, "first epochs of the search that do not update the architecture")
    batch_size: int = _option(64, "of the search")
    lr: float = _option(0.025, "of the weights, at first")
    min_lr: float = _option(0.001, "of the weights, at last (cosine)")
    momentum: float = _option(0.9, "of the weights")
    weight_decay: float = _option(3e-4, "of the weights")
    clip: float = _option(5.0, "greatest norm of a weight gradient")
    arch_lr: float = _option(3e-4, "of the architecture")
    arch_weight_decay: float = _option(1e-3, "of the architecture")

    discriminator: str = _option(
        "shared", "H: the search network at A, or the GAN's own", "shared", "own"
    )
    noise: int = _option(100, "numbers of noise an image")
    generator_width: int = _option(64, "channels of the generator's last stage")
    generator_epochs: int = _option(0, "epochs of the GAN alone, before everything else")
    gan_lr: float = _option(2e-4, "of generator and discriminator")
    gan_min_lr: float = _option(2e-4, "of generator and discriminator, at last (cosine)")
    gan_beta1: float = _option(0.5, "of their Adam")

    eval_channels: int = _option(36, "of the retrained network")
    eval_cells: int = _option(20, "of the retrained network")
    eval_epochs: int = _option(600, "of retraining")
    eval_batch_size: int = _option(96, "of retraining")
    eval_lr: float = _option(0.025, "of retraining, at first (cosine to 0)")
    eval_weight_decay: float = _option(3e-4, "of retraining")
    auxiliary: float = _option(0.4, "weight of the auxiliary head's loss (0: no head)")
    drop_path: float = _option(0.3, "drop path at last")
    cutout: int = _option(16, "side of the hole (0: none)")

    def run_path(self, example: str) -> Path:
        """The run folder."""
        return Path(self.run_folder or f"runs/{example}-{self.dataset}-seed{self.seed}")


def read_preset(name: str, example: str | None = None) -> dict[str, Any]:
    """The settings of a preset, checked against `Settings`.

    Args:
        name: of a file in `configs/`.
        example: whose table in the file, if it has one, goes over what stands above the tables.
    """
    known = sorted(p.stem for p in CONFIGS.glob("*.toml"))
    if name not in known:
        raise SettingsError(
            f"--preset {name}: there is no such preset; give one of {', '.join(known)}."
        )
    where = f"configs/{name}.toml"
    try:
        content = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where} is not TOML: {error}.") from error
    tables = {key: content.pop(key) for key in list(content) if isinstance(content[key], dict)}
    for table, values in tables.items():
        if table not in EXAMPLES:
            raise SettingsError(
                f"{where}: [{table}] is no example's table; give one of {', '.join(EXAMPLES)}."
            )
        _checked(values, f"{where}, [{table}]")
    return {**_checked(content, where), **tables.get(example or "", {})}


def _checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    for name, value in values.items():
        if name not in fields:
            raise SettingsError(
                f"{where}: there is no setting {name!r}; known are {', '.join(fields)}."
            )
        kind = type(fields[name].default)
        if kind is float and type(value) is int:
            values[name] = value = float(value)
        if type(value) is not kind:
            raise SettingsError(f"{where}: {name} = {value!r} must be of type {kind.__name__}.")
        choices = fields[name].metadata["choices"]
        if choices and value not in choices:
            raise SettingsError(f"{where}: {name} = {value!r} must be one of {', '.join(choices)}.")
        least, positive = _LEAST.get(name, 0), name in _POSITIVE
        if kind in (int, float) and (value < least or (positive and value == 0)):
            raise SettingsError(f"{where}: {name} = {value} is too small.")
    return values


_LEAST = {"learners": 2}  # a learner needs another one to teach it
_POSITIVE = (
    "channels", "cells", "nodes", "epochs", "batch_size", "lr", "arch_lr", "radius", "noise",
    "clip", "generator_width", "gan_lr", "eval_channels", "eval_cells", "eval_epochs",
    "eval_batch_size", "eval_lr",
)  # fmt: skip


def parse(
    description: str | None, arguments: Sequence[str] | None = None, example: str | None = None
) -> Settings:
    """Settings from the command line: defaults, then the preset, then what is given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="quick", help="settings to start from: quick or paper")
    for f in dataclasses.fields(Settings):
        flag = "--" + f.name.rstrip("_").replace("_", "-")
        options: dict[str, Any] = {"dest": f.name, "default": None, "help": f.metadata["help"]}
        if isinstance(f.default, bool):
            parser.add_argument(flag, action="store_true", **options)
        else:
            choices = f.metadata["choices"] or None
            parser.add_argument(flag, type=type(f.default), choices=choices, **options)
    given = vars(parser.parse_args(arguments))
    preset = read_preset(given.pop("preset"), example)
    given = _checked({k: v for k, v in given.items() if v is not None}, "the command line")
    return Settings(**{**preset, **given})
