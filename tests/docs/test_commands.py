"""Every command of the documentation is run, composed, or marked as not run with a reason.

A ```bash block of README.md, CONTRIBUTING.md or docs/ follows one of these comments:

- ``<!-- run -->``: the page's commands run in order in one empty folder, made short by overrides. The folder holds
  `photos`, `tiles` and `pathmnist.npz`, small stand-in data, and every file that the page shows in a block whose first
  line is ``# PATH.py`` or ``# PATH.yaml``.
- ``<!-- compose -->``: the configuration of each command is composed and checked. Of a script in benchmarks/ its
  options are looked up and its overrides composed.
- ``<!-- shell: REASON -->``: not tried.
"""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from paths import ROOT
from PIL import Image

from siamese.__main__ import COMMANDS
from siamese.cli import moved_groups
from siamese.evaluation.settings import Given, composed
from siamese.schema import check_embed, check_eval, check_export, check_train

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"<!-- (run|compose|shell: \S.*) -->")
CHECKS = {"train": check_train, "eval_linear": check_eval, "embed": check_embed, "export": check_export}
SCRIPTS = {"train.py": "train", "eval_linear.py": "eval_linear"}
TRAIN = (
    "epochs=1",
    "backbone=small",
    "backbone.widths=[4,8]",
    "monitor.every=1",
    "probe.linear.epochs=2",
    "trainer=cpu",
)
FILES = ("batch_size=8", "data.crop=16", "data.workers=0")  # for the stand-in data, which are small
PROBES = ("eval.linear.epochs=2",)
# Groups of conf/train.yaml, and directories beside them that no command line names.
HIDDEN = ("hydra", "augment_scale", "augment_recipe")


@dataclasses.dataclass(frozen=True)
class Block:
    """One ```bash block."""

    page: str
    line: int
    mark: str | None
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command, without comments and prompts."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(page: Path):
    """(line number, the line before the fence, language, text) of each fenced block."""
    lines = page.read_text(encoding="utf-8").splitlines()
    i = 0
    while i < len(lines):
        opened = re.fullmatch(r"( *)```(\w*).*", lines[i])
        if opened is None:
            i += 1
            continue
        indent, language = opened.groups()
        end = next(j for j in range(i + 1, len(lines)) if lines[j] == f"{indent}```")
        before = next((line.strip() for line in reversed(lines[:i]) if line.strip()), "")
        yield i + 1, before, language, "\n".join(line.removeprefix(indent) for line in lines[i + 1 : end])
        i = end + 1


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks() -> list[Block]:
    out = []
    for page in PAGES:
        for line, before, language, text in fences(page):
            if language in ("bash", "sh", "shell", "console"):
                mark = MARK.fullmatch(before)
                out.append(Block(name(page), line, mark and mark[1], text))
    return out


BLOCKS = blocks()
COMPOSED = [(b, words) for b in BLOCKS if b.mark == "compose" for words in b.commands]
RUN = sorted({b.page for b in BLOCKS if b.mark == "run"})


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_are_marked(block):
    assert block.mark, f"{block}: put <!-- run -->, <!-- compose --> or <!-- shell: REASON --> before this block"


def test_few_blocks_are_not_tried():
    assert sum(b.mark is not None and b.mark.startswith("shell") for b in BLOCKS) <= 12


# compose


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """The script of a command, which may follow python, torchrun or srun, or `siamese COMMAND`; and its arguments."""
    if words[0] == "siamese":
        return f"siamese {words[1]}", words[2:]
    at = next(i for i, word in enumerate(words) if word.endswith((".py", ".sh")))
    return words[at], [re.sub(r"\$[A-Z_]+", "1234", word) for word in words[at + 1 :]]


def settings(overrides: list[str]) -> list[list[str]]:
    """The one trial of a command line, or with `-m` as many as show every value of every setting once."""
    if "-m" not in overrides:
        return [overrides]
    parsed = OverridesParser.create().parse_overrides([o for o in overrides if o != "-m"])
    choices = []
    for o in parsed:
        key = o.get_key_element()
        if o.is_interval_sweep():  # of a search
            choices.append([f"{key}={o.value().start}"])
        else:
            choices.append(
                [f"{key}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
            )
    return [[choice[i % len(choice)] for choice in choices] for i in range(max(map(len, choices)))]


def check(config: str, overrides: list[str]) -> None:
    for trial in settings([o for o in overrides if o not in ("--cfg", "job")]):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose(config, overrides=trial if config == "train" else moved_groups(trial))
            if config != "train" and cfg.foreign:
                composed("data= backbone= augment=", Given(cfg.foreign).overrides)
        CHECKS[config](cfg)


@pytest.mark.parametrize(("block", "words"), COMPOSED, ids=[f"{b} {' '.join(w)[-60:]}" for b, w in COMPOSED])
def test_commands_compose(block, words, tmp_path, monkeypatch):
    files = shown_files(block.page)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (Path(path).stem for path in files if path.endswith(".py")):
        monkeypatch.setitem(sys.modules, module, None)  # restored at the end, whatever this test imports
        del sys.modules[module]
    script, arguments = script_of(words)
    own = script.startswith("siamese ")
    config = COMMANDS[script.removeprefix("siamese ")][0] if own else SCRIPTS.get(script)
    if own and config is None:
        return
    assert own or (ROOT / script).is_file(), f"{block}: {script} does not exist"
    if config is not None:
        where = [f"hydra.searchpath=[file://{tmp_path}/conf]"] if (tmp_path / "conf").is_dir() else []
        check(config, [a for a in arguments if not a.startswith("hydra.searchpath=")] + where)
        return
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in (a for a in arguments if a.startswith("--")):
        assert f'"{option}"' in source, f"{block}: {script} has no option {option}"
    overrides = [a for a in arguments if re.match(r"\w[\w./]*=", a)]
    if script.endswith("cifar10.sh"):
        overrides = [f"experiment=cifar10/{arguments[0]}", f"epochs={arguments[1]}", *overrides]
    if overrides:
        check("train", overrides)


# run


def shown_files(page: str) -> dict[str, str]:
    """Path -> content of the files that a page shows."""
    out = {}
    for _, _, language, text in fences(ROOT / page):
        first = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if language in ("python", "yaml") and first:
            out[first[1]] = text + "\n"
    return out


def pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def stand_ins(folder: Path) -> None:
    """Small data under the names that the pages use."""
    pictures(folder / "photos", 24, 0)
    random = np.random.default_rng(0)
    (folder / "tiles").mkdir()
    for i in range(24):
        np.save(folder / "tiles" / f"{i}.npy", random.integers(0, 10_000, (40, 48, 13), dtype=np.uint16))
    arrays = {}
    for part, count in (("train", 40), ("val", 12), ("test", 12)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % 3
    np.savez(folder / "pathmnist.npz", **arrays)


def shortened(script: str, arguments: list[str], searchpath: Path) -> list[str]:
    """The arguments with overrides that make seconds of minutes."""
    words = list(arguments)
    if script in ("siamese report", "siamese list"):
        return words
    if script in ("train.py", "siamese train", "siamese check"):
        replaced = ("backbone=", "backbone.", "trainer=")
        words = [w for w in words if not w.startswith(replaced)] + list(TRAIN)
        if any(w.startswith("resume=") for w in words):
            words.append("epochs=2")
        if any(re.match("data=(folder|npz)", w) for w in words):
            words += FILES
            if any(w.startswith("method=moco") for w in words):
                words.append("method.queue_size=16")
    elif script in ("eval_linear.py", "siamese eval") and not any(w.startswith(("eval=", "compare=")) for w in words):
        words += PROBES
    if searchpath.is_dir() and not any(w.startswith("hydra.searchpath=") for w in words):
        words.append(f"hydra.searchpath=[file://{searchpath}]")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_commands_run(page, tmp_path):
    stand_ins(tmp_path)
    for path, text in shown_files(page).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "WANDB_MODE": "offline",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "ssl")]),
    }
    for block in (b for b in BLOCKS if b.page == page and b.mark == "run"):
        for words in block.commands:
            script, arguments = script_of(words)
            known = words[0] == "siamese" or (words[0] == "python" and script in SCRIPTS)
            assert known, f"{block}: only the two scripts and siamese are run"
            arguments = shortened(script, arguments, tmp_path / "conf")
            start = ["-m", *script.split()] if words[0] == "siamese" else [str(ROOT / script)]
            done = subprocess.run(
                [sys.executable, *start, *arguments],
                cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}: {shlex.join(words)}\n{done.stderr[-2000:]}"


# what else the pages must keep to


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_example_method_is_the_same_on_both_pages():
    shown = shown_files("README.md")
    assert set(shown) == {"mine.py", "conf/method/mine.yaml"}
    assert shown.items() <= shown_files("docs/extend.md").items()


def anchors(page: Path) -> set[str]:
    """As Python-Markdown's toc makes them of headings."""
    out = set()
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = re.match(r"#+ (.*)", line)
        if heading and not fenced:
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            out.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()))
    return out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
    """`mkdocs build --strict` checks the links of docs/ as well; it is not installed where the tests run."""
    text = re.sub(r"```.*?\n *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name(page)}: {target}"


def test_navigation_lists_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/]+\.md", text))
    assert listed == {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}


def keys(node: dict, prefix: str = "") -> list[str]:
    out = []
    for key, value in node.items():
        out += keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return out


@pytest.mark.parametrize("config", CHECKS)
def test_settings_page_lists_top_level_keys(config):
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("settings.md", "handoff.md"))
    primary = yaml.safe_load((ROOT / "conf" / f"{config}.yaml").read_text(encoding="utf-8"))
    own = {k: v for k, v in primary.items() if k not in ("defaults", "hydra")}
    missing = [key for key in keys(own) if f"`{key}" not in page]
    assert not missing


def test_settings_page_lists_every_option():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    missing = []
    for group in sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name not in HIDDEN):
        for file in sorted((ROOT / "conf" / group).rglob("*.yaml")):
            option = file.relative_to(ROOT / "conf" / group).with_suffix("").parts
            if (
                not option[-1].startswith("_")
                and option[-1] not in ("default", "grid")
                and f"`{option[-1]}`" not in page
            ):
                missing.append("/".join((group, *option)))
    assert not missing
