"""The early end of trials of a search."""

import csv
import json
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import OmegaConf

from siamese.config import optuna
from siamese.errors import UserError
from siamese.training.callbacks.pruning import Pruning, curve_of
from siamese.training.state import EVALUATED


@pytest.fixture
def trial(tmp_path):
    """Sets Hydra's config of a trial; finished trials have these curves."""
    state = Singleton.get_state()

    def make(number, curves, n_jobs=1, mode="MULTIRUN"):
        for i, curve in enumerate(curves):
            run = tmp_path / f"{i:02d}"
            run.mkdir()
            (tmp_path / "trials").mkdir(exist_ok=True)
            (tmp_path / "trials" / f"{i:04d}.json").write_text(json.dumps({"error": None if curve else "it failed"}))
            with (run / "metrics.csv").open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["step", "loss", "epoch", "knn_top1"])
                for epoch, value in enumerate(curve or [0.99], 1):
                    writer.writerow([10 * epoch - 5, 1.0, epoch - 1, ""])
                    writer.writerow([10 * epoch, "", epoch, value])
        sweeper = {"_target_": "OptunaSweeper", "sampler": {}, "n_jobs": n_jobs}
        hydra = {"mode": mode, "job": {"num": number}, "sweep": {"dir": str(tmp_path)}, "sweeper": sweeper}
        HydraConfig.instance().cfg = OmegaConf.create({"hydra": {**hydra, "mode": RunMode[mode]}})

    yield make
    Singleton.set_state(state)
    HydraConfig.instance().cfg = None


def trained(callback, curve, first=1, epochs=10):
    """The epochs after which a trial goes on; it ends where the callback says so."""
    trainer = SimpleNamespace(should_stop=False, max_epochs=epochs)
    callback.on_train_start(trainer, None)
    done = []
    for epoch, value in enumerate(curve[first - 1 :], first):
        if trainer.should_stop:
            break
        trainer.current_epoch = epoch - 1
        trainer.callback_metrics = {"knn_top1": value, EVALUATED: float(epoch)}
        callback.on_train_epoch_end(trainer, None)
        done.append(epoch)
    return done


def pruning(**settings):
    return Pruning(**{"monitor": "knn_top1", "mode": "max", "percentile": 50.0, "startup_trials": 2, "warmup_epochs": 0,
                      **settings})  # fmt: skip


GOOD, FAIR, POOR = [0.5, 0.7, 0.9, 0.95], [0.4, 0.6, 0.8, 0.85], [0.1, 0.2, 0.3, 0.4]


def test_trial_below_the_median_ends_and_one_above_goes_on(trial):
    trial(3, [GOOD, FAIR, FAIR])
    assert trained(pruning(), POOR) == [1]
    assert trained(pruning(), [0.45, 0.65, 0.85, 0.9]) == [1, 2, 3, 4]


def test_same_decision_as_optuna_in_one_study(trial):
    """Against an ordinary study whose trials report as they run."""
    curves = [GOOD, POOR, FAIR, [0.2, 0.9, 0.1, 0.1]]
    mine = [0.45, 0.5, 0.75, 0.8]
    study = optuna().create_study(direction="maximize", pruner=optuna().pruners.MedianPruner(2, 0))
    for curve in [*curves, mine]:
        one, ended = study.ask(), None
        for epoch, value in enumerate(curve, 1):
            one.report(value, epoch)
            if curve is mine and one.should_prune():
                ended = epoch
                break
        if curve is not mine:
            study.tell(one, curve[-1])
    trial(4, curves)
    assert trained(pruning(), mine) == list(range(1, (ended or 4) + 1))


def test_first_trials_and_first_epochs_are_spared(trial):
    trial(2, [GOOD, FAIR])
    assert trained(pruning(startup_trials=3), POOR) == [1, 2, 3, 4]
    assert trained(pruning(warmup_epochs=2), POOR) == [1, 2, 3]


def test_trials_of_the_same_batch_and_unfinished_ones_do_not_count(trial):
    trial(3, [GOOD, GOOD, GOOD], n_jobs=2)  # trial 2 runs beside this one
    assert trained(pruning(startup_trials=3), POOR) == [1, 2, 3, 4]


def test_unfinished_trial_has_no_curve(trial, tmp_path):
    trial(1, [None])
    assert curve_of(tmp_path, 0, "knn_top1") == {}


def test_interrupted_trial_decides_as_an_uninterrupted_one(trial):
    trial(3, [GOOD, FAIR, FAIR])
    curve = [0.6, 0.65, 0.5, 0.5]
    whole = trained(pruning(), curve)
    for epoch in range(1, len(whole) + 1):
        first, second = pruning(), pruning()
        trained(first, curve[:epoch])
        second.load_state_dict(json.loads(json.dumps(first.state_dict()), object_hook=_int_keys))
        assert trained(second, curve, epoch + 1) == whole[epoch:]


def _int_keys(node):
    return {int(k) if k.isdigit() else k: v for k, v in node.items()}


def test_last_epoch_is_not_an_early_end(trial):
    trial(3, [GOOD, FAIR, FAIR])
    callback = pruning()
    trained(callback, POOR[:1], epochs=1)
    assert not callback.ended


def test_auto_is_knn_or_the_rank(trial):
    trial(3, [])
    for measured, figure in (
        (["projection_std", "knn_top1", "feature_rank"], "knn_top1"),
        (["feature_rank"], "feature_rank"),
    ):
        callback = pruning(monitor="auto")
        callback.check("callbacks.pruning", measured)
        assert callback.monitor == figure


def test_run_outside_of_a_search_is_refused(trial):
    trial(0, [], mode="RUN")
    with pytest.raises(UserError, match=r"callbacks.pruning: only a trial of a search .* sweep=METHOD"):
        pruning().check("callbacks.pruning", ["knn_top1"])
