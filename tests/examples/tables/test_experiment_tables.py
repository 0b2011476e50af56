"""Tables as data, and the command line: what is refused, what would run."""

import pytest
from examples.tables.experiment_runs import TABLE, TRANSFER, make, read

import experiments
import mlopt


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", r"t\.toml: there is no key 'titel'; known are title"),
        ('title = "A table"', "", r"t\.toml: title is missing"),
        ('"A table"', "7", r"t\.toml: title = 7 must be of type str"),
        ("[0, 1, 2]", "[0, 1, 0]", r"\[seeds\]: quick has twice the seed 0"),
        ("[0, 1, 2]", "[0, 0.5]", r"\[seeds\]: quick = .* whole numbers"),
        ("seeds.quick", "seeds.quik", r"\[seeds\]: there is no key 'quik'; known are"),
        ('order = "first"', 'ordr = "first"', r"t\.toml, \[settings\]: there is no setting 'ordr'"),
        ('order = "first"', 'order = "third"', r"\[settings\]: order = 'third' must be one of"),
        ('order = "first"', "order = 1", r"\[settings\]: order = 1 must be of type str"),
        ('order = "first"', "seed = 1", r"\[settings\]: seed is given with each run"),
        ('quick.dataset = "digits"', 'quick.dataset = "mnist"', r"\[quick\]: dataset = 'mnist'"),
        ("quick.epochs = 7", "quick.epochs = 7.5", r"row 'lfm', quick: epochs = 7\.5 .* type int"),
        ("quick.epochs = 7", "fast.epochs = 7", r"row 'lfm': there is no key 'fast'; known are"),
        ("lambda_ = 2", 'space = "nasnet"', r"row 'lfm', settings: space = 'nasnet' must be one"),
        ('"lfm_cw_darts"', '"lfm"', r"row 'lfm': there is no example 'lfm' to run; .*sgl_darts"),
        ('name = "lfm"', 'name = "plain"', r"t\.toml: two rows have the name 'plain'"),
        ('"LFM-CW"', '"DARTS-1st"', r"two rows have the label 'DARTS-1st'"),
        ('name = "lfm"', 'name = "a/b"', r"row 'a/b': a name has lower-case letters"),
        ('name = "lfm"', "", r"row 2: name is missing"),
        ("published = 3.00", 'published = "3"', r"row 'plain': published = '3' .* type float"),
        ('source = "A paper, Table 1"', "", r"row 'plain': published has no source"),
        ('"lfm_cw_darts"', '"evaluate"', r'row .lfm.: genotype and example = "evaluate"'),
        ('"LFM-CW"', '"LFM-CW"\ngenotype = "PDARTS"', r'genotype and example = "evaluate"'),
        ("source =", 'plot = "generator"\nsource =', r"plot = 'generator' is no setting that is"),
        ("[[rows]]", "[[rows]", r"t\.toml is not TOML"),
        (TABLE, 'title = ""\nrows = []', r"rows is empty"),
        (TABLE, 'title = ""\nrows = [3]', r"row 1 must be a table"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_runs(tmp_path, tables, runs, old, new, message):
    assert old in TABLE
    tables(TABLE.replace(old, new))
    with pytest.raises(mlopt.SettingsError, match=message):
        make(tmp_path)
    assert not (tmp_path / "out").exists()


def test_two_rows_that_run_the_same_are_refused(tmp_path, tables):
    row = TABLE[TABLE.index("[[rows]]", TABLE.index("lfm") - 20) :]
    tables(TABLE + row.replace('"lfm"', '"lfm2"').replace("LFM-CW", "again"))
    with pytest.raises(mlopt.SettingsError, match=r"rows 'lfm' and 'lfm2' are the same run"):
        make(tmp_path)


def test_rows_that_a_preset_makes_equal_are_run_once(tmp_path, tables, runs):
    row = TABLE[TABLE.index("[[rows]]", TABLE.index("lfm") - 20) :].replace('"lfm"', '"lfm100"')
    tables(TABLE + row.replace("LFM-CW", "C100").replace("cifar10", "cifar100"))
    experiment = make(tmp_path, seeds=[0])
    experiments.run(experiment)
    assert runs.made == [("darts", 0), ("lfm_cw_darts", 0)]
    assert [row["seeds"] for row in read(experiment)["rows"]] == [1, 1, 1]
    assert "LFM-CW and C100 are one and the same run" in (experiment.root / "table.md").read_text()
    folders = [line.cells[0].folder for line in make(tmp_path, preset="paper").lines]
    assert len(set(folders)) == 3


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ("DARTS_V3", "neither a published one"),
        ("nowhere/lfm", "neither a published one"),
        ("t/lfm3", "there is no row 'lfm3'"),
        ("transfer/published", "is not a search"),
    ],
)
def test_a_genotype_from_nowhere(tmp_path, tables, genotype, message):
    tables(TRANSFER.replace("t/lfm", genotype), "transfer")
    with pytest.raises(mlopt.SettingsError, match=rf"transfer\.toml, row 'found': .*{message}"):
        make(tmp_path, "transfer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--table is missing: give one of t"),
        (["--table", "u"], "--table u: there is no such table; give one of t."),
        (["--table", "t", "--rows", "x"], "there is no row 'x'"),
        (["--table", "t", "--seeds", "-1"], "seed = -1 is too small"),
        (["--table", "t", "--set", "epochs"], "--set epochs: write name=value"),
        (["--table", "t", "--set", "epoch=3"], "--set: there is no setting 'epoch'"),
        (["--table", "t", "--set", "epochs=3.5"], "epochs = 3.5 must be of type int"),
        (["--table", "t", "--set", "seed=3"], "--set seed: use --seeds"),
        (["--table", "t", "--set", "space=nasnet"], "space = 'nasnet' must be one of"),
        (["--table", "t", "--workers", "-1"], "workers = -1 is too small"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(tmp_path, runs, arguments, message):
    with pytest.raises(SystemExit) as ended:
        experiments.main([*arguments, "--folder", str(tmp_path / "out")])
    assert str(ended.value).startswith("error: ")
    assert message in str(ended.value)
    assert runs.made == []


def test_what_the_command_line_sets(tmp_path):
    words = ["epochs=3", "space=pc-darts", "drop=[3, 2]", "synthetic_only=true", "lr=1"]
    options = experiments.parsed(["--device", "cuda", "--set", *words])
    assert experiments.given_settings(options) == {
        "epochs": 3, "space": "pc-darts", "drop": (3, 2), "synthetic_only": True, "lr": 1.0,
        "device": "cuda",
    }  # fmt: skip


def test_a_dry_run_runs_nothing(tmp_path, runs, capsys):
    words = ["--table", "t", "--folder", str(tmp_path / "out")]
    assert experiments.main([*words, "--dry-run"]) == 0
    assert runs.made == []
    assert not (tmp_path / "out").exists()
    assert "6 runs: 6 to run." in capsys.readouterr().out
    runs.errors[("darts", 1)] = ValueError()
    experiments.run(make(tmp_path), ["plain"])
    capsys.readouterr()
    experiments.main([*words, "--dry-run"])
    assert "6 runs: 2 done, 1 failed, 3 to run." in capsys.readouterr().out
    experiments.main([*words, "--dry-run", "--rows", "lfm", "--set", "epochs=2"])
    assert "3 runs: 3 to run." in capsys.readouterr().out


def test_the_lists(tables, capsys):
    experiments.main(["--list"])
    assert "A table" in capsys.readouterr().out
    experiments.main(["--list", "--table", "t"])
    text = capsys.readouterr().out
    assert "lfm_cw_darts" in text
    assert "DARTS-1st" in text
