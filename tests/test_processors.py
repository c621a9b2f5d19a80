"""Cores and GPUs that this process may use."""

import os

import pytest

from siamese.processors import cores, gpus, limit_spinning


def file_system(root, groups, files):
    """A file system with control groups."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


CPU = "sys/fs/cgroup/cpu,cpuacct"
LIMITS = {
    "none": ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "v2": ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
    "v2 of two and a half": ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
    "v2 of half a core": ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "v2 above the group": (
        "0::/system.slice/job\n",
        {"sys/fs/cgroup/system.slice/job/cpu.max": "max 100000\n",
         "sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n"}, 3,
    ),
    "v2 of a container": ("0::/../../host\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    "v1": ("4:cpu,cpuacct:/\n3:memory:/\n",
           {f"{CPU}/cpu.cfs_quota_us": "200000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, 2),
    "v1 without limit": ("4:cpu,cpuacct:/\n",
                         {f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, 8),
    "v1 of a container": ("4:cpu,cpuacct:/docker/ab:c\n0::/\n",
                          {f"{CPU}/cpu.cfs_quota_us": "100000\n", f"{CPU}/cpu.cfs_period_us": "50000\n"}, 2),
    "more than the mask": ("0::/\n", {"sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
    "of other things": ("4:cpuset:/\n3:memory:/\n", {"sys/fs/cgroup/cpuset/cpu.max": "100000 100000\n"}, 8),
    "damaged": ("0::/\n", {"sys/fs/cgroup/cpu.max": "many\n"}, 8),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_cores_that_a_container_allows(tmp_path, monkeypatch, case):
    groups, files, expected = LIMITS[case]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores(file_system(tmp_path, groups, files)) == expected


def test_cores_of_the_affinity_mask(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3}, raising=False)
    assert cores(tmp_path) == 1  # without control groups


@pytest.mark.parametrize(
    ("visible", "names"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-5f, 1", ["GPU-5f", "1"])]
)
def test_visible_gpus(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names


@pytest.mark.parametrize(("own", "count"), [({}, "2000"), ({"GOMP_SPINCOUNT": "5"}, "5"),
                                            ({"OMP_WAIT_POLICY": "ACTIVE"}, None)])  # fmt: skip
def test_waiting_threads_give_up_their_core(monkeypatch, own, count):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    environment = {**os.environ, **own}
    monkeypatch.setattr(os, "environ", environment)
    limit_spinning()
    assert environment.get("GOMP_SPINCOUNT") == count
