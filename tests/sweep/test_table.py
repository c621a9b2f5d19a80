"""The table of a sweep, its CSV files, its page and its best setting."""

import csv
import math
import shlex
import statistics

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from pages.page_cases import Page
from paths import ROOT
from rich.console import Console
from scipy import stats
from sweep.sweep_cases import outcome, seeds

from siamese.sweep import closing, table
from siamese.sweep.best import experiment, write_best
from siamese.sweep.page import sweep_page

GOOD, BAD, NEAR = (0.90, 0.92, 0.91), (0.50, 0.52, 0.54), (0.89, 0.93, 0.90)


def printed(found, width=200):
    console = Console(record=True, width=width)
    console.print(table.table(found, width))
    return console.export_text()


def line_of(text, word):
    (line,) = [line for line in text.splitlines() if word in line]
    return line


def test_rows_are_sorted_and_name_what_differs():
    outcomes = [*seeds("method=moco epochs=4 optimizer.lr=0.012345678", BAD),
                *seeds("method=simclr epochs=4 optimizer.lr=0.1", GOOD, 3)]  # fmt: skip
    found, common = table.rows(outcomes)
    assert [row.name for row in found] == ["method=simclr optimizer.lr=0.1", "method=moco optimizer.lr=0.01235"]
    assert common == {"epochs": "4"}
    assert found[1].settings["optimizer.lr"] == "0.012345678"


def test_figures_are_mean_and_95_percent_interval():
    """Against scipy's interval of the mean."""
    text = printed(table.rows([*seeds("a=1", GOOD), *seeds("a=2", BAD, 3)])[0])
    for setting, values in (("a=1", GOOD), ("a=2", BAD)):
        low, high = stats.t.interval(0.95, 2, statistics.fmean(values), stats.sem(values))
        assert f"{100 * statistics.fmean(values):.2f} ± {50 * (high - low):.2f}" in line_of(text, setting)


def test_difference_is_marked_where_it_exceeds_the_spread():
    """Against scipy's Welch test."""
    found, _ = table.rows([*seeds("a=1", GOOD), *seeds("a=2", BAD, 3), *seeds("a=3", NEAR, 6)])
    assert [row.name for row in found] == ["a=1", "a=3", "a=2"]
    best, near, bad = (table.difference(found[0], row) for row in found)
    assert (best, near, bad) == ("", "-0.33", "-39.00 *")
    assert (
        stats.ttest_ind(GOOD, NEAR, equal_var=False).pvalue > 0.05 > stats.ttest_ind(GOOD, BAD, equal_var=False).pvalue
    )
    assert "Welch" in table.legend(found)[0]


def test_single_seed_has_no_interval_and_no_mark():
    found, _ = table.rows([outcome(0, "a=1", 0.9), outcome(1, "a=2", 0.1)])
    assert "±" not in printed(found)
    assert "*" not in printed(found)
    assert "one seed has no spread" in table.legend(found)[0]
    assert "interval" not in table.title(found)


def test_failed_trials_are_counted_and_last():
    found, _ = table.rows(
        [outcome(0, "a=1 seed=0", error="boom"), outcome(1, "a=2 seed=0"), outcome(2, "a=2 seed=1", error="x")]
    )
    assert [row.name for row in found] == ["a=2", "a=1"]
    assert line_of(printed(found), "a=1").split("│")[-2].strip() == "1"
    assert found[1].value == -math.inf


def test_repeats_of_a_seed_count_once():
    """A search over a few choices proposes some again."""
    outcomes = [outcome(0, "a=1 b=2", 0.9), outcome(1, "b=2 a=1", 0.9), outcome(2, "a=2 b=2", 0.5)]
    outcomes += [outcome(3, "a=3 b=2 seed=0", error="boom"), outcome(4, "a=3 b=2 seed=0", 0.4)]
    found, _ = table.rows(outcomes)
    counted = [(row.name, len(row.members), len(row.done)) for row in found]
    assert counted == [("a=1", 1, 1), ("a=2", 1, 1), ("a=3", 1, 1)]


def test_seconds_and_memory_are_means():
    found, _ = table.rows([outcome(0, "a=1 seed=0", train_seconds=10.0, peak_memory_mb=1000.0),
                           outcome(1, "a=1 seed=1", train_seconds=30.0, peak_memory_mb=2000.0)])  # fmt: skip
    assert printed(found).count("1,500") == 1
    assert " 20 " in printed(found)


def test_without_labels_the_figure_is_the_rank():
    found, _ = table.rows([outcome(i, f"a={i}", linear=None, knn=None, feature_rank=10.0 + i) for i in range(2)])
    assert [row.name for row in found] == ["a=1", "a=0"]
    assert "11.00" in printed(found)
    assert table.title(found) == "sweep: RankMe of the features"
    assert table.difference(*found) == "-1.00"


def test_csv_has_the_numbers(tmp_path):
    outcomes = [*seeds("optimizer.lr=0.012345678", GOOD), outcome(3, "optimizer.lr=1 seed=0", error='it, "failed"')]
    found, _ = table.rows(outcomes)
    table.write_csv(tmp_path, found, outcomes)
    with (tmp_path / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["linear_mean"]) == pytest.approx(statistics.fmean(GOOD))
    assert (rows[0]["optimizer.lr"], rows[0]["seeds"], rows[1]["failed"]) == ("0.012345678", "3", "1")
    with (tmp_path / "trials.csv").open(newline="") as stream:
        trials = list(csv.DictReader(stream))
    assert [t["linear_top1"] for t in trials] == ["0.9", "0.92", "0.91", ""]
    assert [t["seed"] for t in trials] == ["0", "1", "2", "0"]
    assert trials[3]["error"] == 'it, "failed"'


@pytest.mark.parametrize("width", [80, 200])
def test_closing_lines_fit(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    outcomes = [
        *seeds("method=simclr epochs=4 optimizer.lr=0.1", GOOD),
        *seeds("method=moco epochs=4 optimizer.lr=0.1", BAD, 3),
    ]
    assert closing.show(outcomes, tmp_path) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[2:6])) <= width
    assert "all: epochs=4 optimizer.lr=0.1" in out
    assert "best: method=simclr" in out
    assert (tmp_path / "sweep.html").is_file()


def test_page_draws_each_trial_against_each_setting(tmp_path):
    outcomes = [outcome(i, f"optimizer.lr={lr} method={m}", 0.5 + 0.05 * i)
                for i, (lr, m) in enumerate([(0.001, "simclr"), (0.01, "moco"), (0.1, "simclr")])]  # fmt: skip
    outcomes.append(outcome(3, "optimizer.lr=1 method=moco", error="<b>boom</b>"))
    found, common = table.rows(outcomes)
    content = sweep_page(found, common, outcomes, tmp_path)
    page = Page(content)
    assert len(page.all("circle")) == 6  # three trials, two settings
    xs = [float(c["cx"]) for c in page.all("circle")][:3]
    by_rate = sorted(xs)
    assert by_rate[1] - by_rate[0] == pytest.approx(by_rate[2] - by_rate[1], abs=0.02)  # logarithmic
    assert "&lt;b&gt;boom&lt;/b&gt;" in content
    assert "linear % against optimizer.lr" in content


def test_best_setting_is_an_experiment(tmp_path):
    """Composed by Hydra from a search path, as the printed command does."""
    settings = {"data": "digits", "method": "byol", "optimizer.lr": "0.0123", "method.momentum": "0.97", "seed": "3",
                "trainer": "cpu", "data.crop": "8", "backbone.widths": "[4,8]"}  # fmt: skip
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text(experiment(settings, "of a test"))
    path = QuotedString(f"file://{tmp_path / 'conf'}", Quote.single).with_quotes()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=best", f"hydra.searchpath=[{path}]"])
    assert (cfg.method.name, cfg.method.momentum, cfg.optimizer.lr) == ("byol", 0.97, 0.0123)
    assert (cfg.seed, cfg.backbone.widths) == (0, [4, 8])
    assert yaml.safe_load((folder / "best.yaml").read_text())["optimizer"] == {"lr": 0.0123}


def test_best_setting_builds_on_an_experiment(tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text(experiment({"experiment": "cifar10/simclr", "epochs": "7"}, "of a test"))
    path = QuotedString(f"file://{tmp_path / 'conf'}", Quote.single).with_quotes()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=best", f"hydra.searchpath=[{path}]"])
    assert (cfg.data.name, cfg.epochs, cfg.batch_size) == ("cifar10", 7, 512)


def composed_best(tmp_path, settings, kept=()):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text(experiment(settings, "of a test", kept))
    path = QuotedString(f"file://{tmp_path / 'conf'}", Quote.single).with_quotes()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["experiment=best", f"hydra.searchpath=[{path}]"])


def test_best_of_a_search_has_the_method_of_its_space(tmp_path):
    cfg = composed_best(tmp_path, {"sweep": "byol", "optimizer.lr": "0.01", "method.momentum": "0.97"})
    assert (cfg.method.name, cfg.method.momentum, dict(cfg.callbacks)) == ("byol", 0.97, {})


def test_best_keeps_the_places_that_were_swept(tmp_path):
    settings = {"trainer.accumulate_grad_batches": "2", "trainer": "cpu", "data": "folder", "data.include": "[*.png]"}
    cfg = composed_best(tmp_path, settings, kept=["trainer.accumulate_grad_batches"])
    assert cfg.trainer.accumulate_grad_batches == 2
    assert cfg.trainer.accelerator == "auto"
    assert cfg.data.include == ["*.png"]


def test_printed_command_finds_the_best_in_any_folder(tmp_path, monkeypatch):
    """By a shell's words, also beside a conf/ of the user's."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nepochs: 5\n")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "b l,x'y ü"
    folder.mkdir()
    command = write_best(folder, {"experiment": "mine", "batch_size": "32"}, "of a test", [])
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=words[2:])
    assert (cfg.epochs, cfg.batch_size) == (5, 32)
