"""Presets: what they set, in which order their tables count, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import mlopt
from mlopt.nas import SPACES
from support import settings
from support.networks import TITLES, search_space
from support.settings import Settings, presets


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a preset of this text and of arguments."""
    monkeypatch.setattr(presets, "CONFIGS", tmp_path)

    def make(text: str, *arguments: str, example: str | None = None) -> Settings:
        (tmp_path / "mine.toml").write_text(text)
        return settings.parse(None, ["--preset", "mine", *arguments], example)

    return make


def parsed(name: str, *arguments: str, example: str | None = None) -> Settings:
    return settings.parse(None, ["--preset", name, *arguments], example)


TABLES = """
lr = 0.5
batch_size = 7
[datasets.cifar10]
lr = 0.4
channels = 4
[spaces.p-darts]
channels = 5
add_cells = [0, 2]
[spaces.p-darts.cifar10]
cells = 3
epochs = 4
[sgl_darts]
epochs = 6
"""


def test_tables_count_in_order_and_the_command_line_last(preset) -> None:
    s = preset(TABLES)
    assert (s.lr, s.channels, s.batch_size) == (0.5, 16, 7)
    s = preset(TABLES, "--dataset", "cifar10")
    assert (s.lr, s.channels, s.cells, s.epochs) == (0.4, 4, 8, 50)
    s = preset(TABLES, "--dataset", "cifar10", "--space", "p-darts")
    assert (s.lr, s.channels, s.cells, s.epochs, s.add_cells) == (0.4, 5, 3, 4, (0, 2))
    s = preset(TABLES, "--dataset", "digits", "--space", "p-darts")
    assert (s.lr, s.channels, s.cells, s.epochs) == (0.5, 5, 8, 50)
    both = ("--dataset", "cifar10", "--space", "p-darts")
    assert preset(TABLES, *both, example="sgl_darts").epochs == 6
    assert preset(TABLES, *both, example="darts").epochs == 4
    s = preset(TABLES, *both, "--epochs", "9", "--add-cells", "1", "1", example="sgl_darts")
    assert (s.epochs, s.add_cells) == (9, (1, 1))


def test_the_tables_of_a_preset_s_own_data_set_and_space_count(preset) -> None:
    text = 'dataset = "cifar10"\nspace = "p-darts"\n' + TABLES
    s = preset(text)
    assert (s.dataset, s.space, s.lr, s.channels, s.cells) == ("cifar10", "p-darts", 0.4, 5, 3)
    s = preset(text, "--dataset", "digits")
    assert (s.dataset, s.space, s.lr, s.cells) == ("digits", "p-darts", 0.5, 8)


def test_a_switch_of_a_preset_can_be_turned_off(preset) -> None:
    assert preset("synthetic_only = true").synthetic_only
    assert not preset("synthetic_only = true", "--no-synthetic-only").synthetic_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chanels = 3", "mine.toml: there is no setting 'chanels'"),
        ('epochs = "many"', "epochs = 'many' must be of type int"),
        ("epochs = true", "epochs = True must be of type int"),
        ("epochs = 2.5", "epochs = 2.5 must be of type int"),
        ("epochs = 0", "epochs = 0 is too small"),
        ("lr = nan", "lr = nan is not a number"),
        ("seed = 99999999999999999999", "is too large"),
        ("lr = inf", "lr = inf is too large"),
        ("ema = 1.0", "ema = 1.0 is too large"),
        ("seed = -1", "seed = -1 is too small"),
        ("add_cells = 6", "add_cells = 6 must be a list of int"),
        ("add_cells = []", r"add_cells = \[\] must be a list of int"),
        ("add_cells = [0, 2.5]", "2.5 must be of type int"),
        ("skip_dropout = [0.1, -0.2]", "-0.2 is too small"),
        ('generator = "vae"', "generator = 'vae' must be one of dcgan, wgan-gp"),
        ('space = "darts-"', "'darts-' must be one of darts, p-darts, pc-darts, darts-minus"),
        ("epochs = ", "mine.toml is not TOML"),
        ("[sgl]\nlr = 0.5", r"\[sgl\] is the table of no example.*sgl_darts"),
        ("[sgl_darts]\nlearner = 3", r"\[sgl_darts\]: there is no setting 'learner'"),
        ("[datasets.cifar]\nlr = 0.5", "there is no dataset 'cifar'.*cifar10"),
        ("[spaces.pdarts]\nlr = 0.5", "there is no space 'pdarts'.*p-darts"),
        ("[spaces]\nlr = 0.5", "there is no space 'lr'"),
        ("[spaces]\np-darts = 1", r"holds tables such as \[spaces.p-darts\]"),
        ("[spaces.p-darts]\nchanels = 1", r"\[spaces.p-darts\]: there is no setting 'chanels'"),
        ("[spaces.p-darts.cifar]\nlr = 1", r"\[spaces.p-darts\]: there is no setting 'cifar'"),
        ("[spaces.p-darts.cifar10]\nlr = '1'", r"\[spaces.p-darts.cifar10\].*of type float"),
        ('[spaces.p-darts]\ndataset = "digits"', "dataset chooses the tables"),
        ('[sgl_darts]\nspace = "darts"', "space chooses the tables"),
    ],
)
def test_what_is_no_preset_is_refused_by_name(preset, text: str, message: str) -> None:
    """Also in the tables of another space, data set or example."""
    with pytest.raises(mlopt.SettingsError, match=message):
        preset(text)


def test_the_names_of_the_spaces_are_the_library_s() -> None:
    assert set(settings.SPACE_NAMES) == set(SPACES) == set(TITLES)


@pytest.mark.parametrize("name", ["paper", "reference", "quick"])
def test_the_presets_make_every_space_on_every_data_set(name: str) -> None:
    for space, dataset in itertools.product(SPACES, settings.DATASETS):
        for example in settings.EXAMPLES:
            s = parsed(name, "--space", space, "--dataset", dataset, example=example)
            assert s.order == ("second" if space == "darts" else "first")
        made = search_space(dataset, s)
        assert made.form == ("imagenet" if dataset == "imagenet" else "cifar")
        assert made.channels % 4 == 0


def test_the_paper_preset_is_tables_6_and_7() -> None:
    s = parsed("paper")
    assert (s.channels, s.cells, s.epochs, s.batch_size, s.lambda_) == (16, 8, 50, 64, 1.0)
    assert (s.lr, s.min_lr, s.arch_lr, s.arch_weight_decay) == (0.025, 0.001, 3e-4, 1e-3)
    assert (s.gan_lr, s.clip, s.momentum, s.weight_decay) == (2e-4, 5.0, 0.9, 3e-4)
    assert (s.eval_channels, s.eval_cells, s.eval_epochs, s.eval_batch_size) == (36, 20, 600, 96)
    assert (s.auxiliary, s.cutout, s.drop_path, s.eval_lr) == (0.4, 16, 0.3, 0.025)
    assert (s.generator, s.d_steps, s.images_per_class) == ("biggan", 1, 0)

    s = parsed("paper", "--space", "p-darts")
    assert (s.epochs, s.warmup, s.lr, s.min_lr, s.arch_lr) == (25, 10, 0.025, 0.001, 3e-4)
    assert (s.cells, s.add_cells, s.skip_dropout) == (8, (0, 6, 12), (0.1, 0.4, 0.7))
    s = parsed("paper", "--space", "pc-darts")
    assert (s.epochs, s.warmup, s.lr, s.min_lr, s.batch_size) == (50, 15, 0.025, 0.001, 64)

    s = parsed("paper", "--space", "pc-darts", "--dataset", "imagenet")
    assert (s.lr, s.min_lr, s.arch_lr, s.epochs, s.warmup) == (0.5, 0.005, 6e-3, 50, 35)
    assert (s.eval_channels, s.eval_cells, s.eval_epochs, s.eval_batch_size) == (48, 14, 250, 1024)
    assert (s.eval_lr, s.eval_schedule, s.eval_weight_decay) == (0.5, "cosine", 3e-5)
    assert (s.eval_label_smoothing, s.drop_path, s.auxiliary) == (0.1, 0.0, 0.4)


def test_the_paper_preset_of_sgl() -> None:
    """Section 3.2: lambda 0.1, 50 epochs, batch 64, DARTS' settings otherwise."""
    preset, base = settings.read_preset("paper", "sgl_darts"), settings.read_preset("paper")
    s = Settings(**preset)
    assert (s.lambda_, s.epochs, s.batch_size, s.learners) == (0.1, 50, 64, 2)
    assert {**preset, "lambda_": 1.0} == base


def test_the_reference_preset_is_that_of_the_published_scripts() -> None:
    s = parsed("reference")
    assert (s.lr, s.min_lr, s.batch_size, s.arch_lr, s.steps) == (
        0.025,
        1e-3,
        64,
        3e-4,
        "upper-first",
    )
    assert s.drop_path == 0.2
    s = parsed("reference", "--space", "p-darts")
    assert (s.cells, s.add_cells, s.drop, s.most_skips) == (5, (0, 6, 12), (3, 2, 2), 2)
    assert (s.epochs, s.warmup, s.batch_size, s.min_lr) == (25, 10, 96, 0.0)
    assert (s.arch_lr, s.arch_clip, s.eval_batch_size, s.drop_path) == (6e-4, 5.0, 128, 0.3)
    s = parsed("reference", "--space", "pc-darts")
    assert (s.lr, s.min_lr, s.batch_size, s.arch_lr, s.warmup) == (0.1, 0.0, 256, 6e-4, 15)
    s = parsed("reference", "--space", "pc-darts", "--dataset", "imagenet")
    assert (s.lr, s.lr_warmup, s.batch_size, s.arch_lr, s.warmup) == (0.5, 5, 1024, 6e-3, 35)
    assert (s.arch_clip, s.eval_schedule, s.eval_warmup, s.eval_lr) == (5.0, "linear", 5, 0.5)
    assert (s.drop_path, s.cutout, s.eval_batch_size) == (0.0, 0, 1024)
    for space, size, schedule in (("darts", 128, "exponential"), ("p-darts", 256, "linear")):
        s = parsed("reference", "--space", space, "--dataset", "imagenet")
        assert (s.eval_batch_size, s.eval_schedule) == (size, schedule)
        assert (s.eval_lr, s.eval_warmup, s.eval_epochs, s.drop_path) == (0.1, 0, 250, 0.0)
    s = parsed("reference", "--space", "darts-minus")
    assert (s.epochs, s.lr, s.auxiliary_skip, s.skip_decay) == (50, 0.025, "skip", "linear")


def test_the_run_folder_names_the_space() -> None:
    assert parsed("quick").run_path("darts") == Path("runs/darts-digits-seed0")
    s = parsed("quick", "--space", "p-darts", "--seed", "3")
    assert s.run_path("sgl_darts") == Path("runs/sgl_darts-p-darts-digits-seed3")
