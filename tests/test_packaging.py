"""What pyproject.toml, the requirements and the package's files say of each other."""

import json
import os
import site
import subprocess
import sys
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


EXTRAS = PROJECT["project"]["optional-dependencies"]


def lines(name):
    return [
        line.strip() for line in (ROOT / name).read_text().splitlines() if line.strip() and not line.startswith("#")
    ]


def requirements(name):
    return [Requirement(line) for line in lines(name) if not line.startswith("-")]


def test_requirements_refer_to_the_project():
    assert lines("requirements.txt") == ["-e ."]
    assert lines("requirements-dev.txt")[0] == f"-e .[{','.join(EXTRAS)}]"  # so that every extra is tested


def test_oldest_versions_are_the_lower_bounds():
    pinned = {r.name: str(r.specifier).removeprefix("==") for r in requirements("requirements-oldest.txt")}
    needed = [*PROJECT["project"]["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
    admitted = [*map(Requirement, needed), *requirements("requirements-dev.txt")]
    assert set(pinned) == {r.name for r in admitted}
    for r in admitted:
        (bound,) = [s.version for s in r.specifier if s.operator == ">="]
        assert pinned[r.name] == bound or pinned[r.name].startswith(f"{bound}."), r.name


@pytest.mark.parametrize(("version", "admitted"), [("3.9", False), ("3.10", True), ("3.13", True), ("3.14", False)])
def test_python_versions(version, admitted):
    assert (version in SpecifierSet(PROJECT["project"]["requires-python"])) is admitted


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel in an environment of its own, to which only the packages that it needs are lent. Returns its `bin`."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(build, check=True, capture_output=True, env=own)
    (wheel,) = folder.glob("siamese_ssl-*.whl")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    python = folder / "env" / "bin" / "python"
    install = [*pip, f"--python={python}", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=own)
    # After that, or pip would find the checkout there. The .pth files of what is lent are not read.
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()))
    with zipfile.ZipFile(wheel) as packed:
        return python.parent, packed.namelist()


def run(command, folder):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_wheel_holds_code_sources_and_configs(installed):
    names = set(installed[1])
    tracked = [f for top in ("ssl/siamese", "conf") for f in (ROOT / top).rglob("*") if f.is_file()]
    code = {f.relative_to(ROOT / "ssl").as_posix() for f in tracked if f.is_relative_to(ROOT / "ssl")}
    wanted = {name for name in code if "__pycache__" not in name}
    wanted |= {f"siamese/{f.relative_to(ROOT).as_posix()}" for f in tracked if f.is_relative_to(ROOT / "conf")}
    assert wanted <= names
    assert all(name in wanted or ".dist-info/" in name for name in names)


@pytest.mark.slow
def test_installed_command_trains_with_the_options_of_its_directory(installed, tmp_path):
    siamese = str(installed[0] / "siamese")
    where = run([str(installed[0] / "python"), "-c", "import siamese; print(siamese.__file__)"], tmp_path)
    assert str(installed[0].parent) in where.stdout, where.stderr
    (tmp_path / "my dir" / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "my dir" / "conf" / "backbone" / "thin.yaml").write_text(
        "defaults: [small]\n_target_: thin.thin\nwidths: [4, 8]\n"
    )
    (tmp_path / "my dir" / "thin.py").write_text("from siamese.backbones import small_resnet as thin\n")
    words = [
        "train",
        "backbone=thin",
        "epochs=1",
        "monitor.every=0",
        "probe.linear.epochs=2",
        "trainer=cpu",
        "run_dir=r",
    ]
    done = run([siamese, *words], tmp_path / "my dir")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "my dir" / "r" / "summary.json").read_text())
    assert summary["finished"]
    judged = ["eval", "ckpt=r/checkpoints/last.ckpt", "eval=knn", "trust_config=true"]
    done = run([siamese, *judged], tmp_path / "my dir")
    assert done.returncode == 0, done.stderr
    assert "random_init" in done.stdout


def test_installed_command_lists_and_refuses(installed, tmp_path):
    siamese = str(installed[0] / "siamese")
    listed = run([siamese, "list", "method"], tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "simclr        SimCLR, arXiv:2002.05709" in listed.stdout
    done = run([siamese, "trian"], tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: trian: no such command; did you mean train?\n")
    done = run([siamese, "train", "method=simclrr"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: method=simclrr: no such option; choose one of")
    done = run([str(installed[0] / "python"), "-m", "siamese", "--version"], tmp_path)
    assert done.stdout == f"siamese {PROJECT['project']['version']}\n"
    assert list(tmp_path.iterdir()) == []


def test_own_options_stand_among_the_settings(tmp_path, monkeypatch):
    """argparse takes no override after an option that follows overrides. `${` in a name is no interpolation."""
    from siamese.cli import with_searchpath

    folder = tmp_path / "n${x}"
    (folder / "conf" / "method").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = f"hydra.searchpath=['file://{tmp_path}/n\\${{x}}/conf']"
    assert with_searchpath(["method=mine", "--cfg", "job"]) == [own, "method=mine", "--cfg", "job"]
    assert with_searchpath(["--cfg", "job"]) == ["--cfg", "job", own]
    assert with_searchpath(["hydra.searchpath=[]"]) == ["hydra.searchpath=[]"]


def test_broken_yaml_of_the_user_is_one_line(installed, tmp_path):
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("a: [")
    done = run([str(installed[0] / "siamese"), "train", "method=mine"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: conf: a yaml cannot be read") and done.stderr.count("\n") == 1
