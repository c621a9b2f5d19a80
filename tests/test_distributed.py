"""Two processes give the results of one process (tests/equality.py trains both)."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from equality import CASES
from method_cases import CLASSES, NODES
from paths import ROOT

from siamese.distributed import any_rank, is_rank_zero, union

QUEUED = [case for case, (name, *_) in CASES.items() if "queue_size" in NODES[name]]
SPLIT = [case for case, (name, *_) in CASES.items() if not CLASSES[name].sync_batchnorm]  # with Shuffling BN


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Results of two processes and of one: (rank 0, rank 1, one)."""
    folder = tmp_path_factory.mktemp("equality")
    (folder / "photos").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 60_000, (40 + i, 50, 4), dtype=np.uint16)
        np.save(folder / "photos" / f"{i:02}.npy", pixels)
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "equality.py"), str(folder)],
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "ssl")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    return [torch.load(folder / f"{name}.pt") for name in ("two-0", "two-1", "one")]


def close(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], expected[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(trained, case):
    first, second, one = (t[case] for t in trained)
    for ours in (first, second):
        assert ours["losses"][0] == pytest.approx(one["losses"][0], abs=1e-10)
        assert ours["losses"] == pytest.approx(one["losses"], abs=1e-8)
        close(ours["gradients"], one["gradients"], 1e-10)
        close(ours["parameters"], one["parameters"], 1e-9)
    assert max(g.abs().max() for g in first["gradients"].values()) > 1e-6  # not all zero


def test_crops_of_two_processes_are_those_of_one(trained):
    """Cut from the files, whichever process cuts them."""
    first, second, one = (t["crops"] for t in trained)
    assert len(first) == len(second) == len(one) == 6
    for ours, theirs, expected in zip(first, second, one, strict=True):
        assert torch.equal(torch.cat([ours[1], theirs[1]]), expected[1])
        for view in range(2):
            assert torch.equal(torch.cat([ours[0][view], theirs[0][view]]), expected[0][view])
    assert not torch.equal(one[0][0][0], one[3][0][0])  # another epoch, other crops


@pytest.mark.parametrize("case", CASES)
def test_projection_figures_equal_those_of_one_process(trained, case):
    first, second, one = (t[case]["figures"] for t in trained)
    assert first == second == pytest.approx(one, rel=1e-6)
    assert first[0] > 0 and first[1] > 1  # spread and rank of a projection that has not collapsed


@pytest.mark.parametrize("case", [case for case in CASES if case not in SPLIT])
def test_running_statistics_equal_those_of_the_joint_batch(trained, case):
    first, second, one = (t[case]["buffers"] for t in trained)
    close(first, one, 1e-9)
    close(second, one, 1e-9)


@pytest.mark.parametrize("case", QUEUED)
def test_queues_hold_the_keys_of_all_ranks(trained, case):
    names = [name for name in trained[2][case]["buffers"] if "queue" in name]
    assert names
    for name in names:
        first, second, one = (t[case]["buffers"][name] for t in trained)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, one, atol=1e-9, rtol=0)
        # Room for three steps' keys: five steps have wrapped, and every row or column is a unit key.
        assert any(torch.allclose(first.norm(dim=dim), torch.tensor(1.0).double()) for dim in (0, 1))


def test_online_probe_takes_the_step_of_the_joint_batch(trained):
    first, second, one = (t["probe"] for t in trained)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_rank_zero_is_known_before_a_process_group_exists(monkeypatch, environment, first):
    for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert is_rank_zero() is first


@pytest.mark.parametrize("flag", [True, False])
def test_one_process_does_not_ask_the_device(flag):
    """A tensor on the meta device has no value: reading it would be an error, as it is a wait on a GPU."""
    assert any_rank(flag, torch.device("meta")) is flag


def test_names_of_all_ranks_may_be_of_any_bytes():
    names = {os.fsdecode(b"\xe9t\xe9.jpg"), "two\nlines.png", "ä.png"}
    assert union(names, torch.device("cpu")) == names
    assert union(set(), torch.device("cpu")) == set()
