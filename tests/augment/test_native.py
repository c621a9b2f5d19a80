import os
import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from view_cases import FULL, PLAIN, batch, generator, make_view, needs_compiler, replace

from siamese.augment import Views, native
from siamese.augment.operations import Blur

DRIVER = Path(__file__).with_name("native_driver.cpp")
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache folder for compiled libraries, nothing of it loaded; they are compiled quickly."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FLAGS", ("-O0", "-std=c++17", "-shared", "-fPIC", "-pthread"))
    native.library.cache_clear()
    yield tmp_path / "cache" / "siamese"
    native.library.cache_clear()


def renders_as_torch():
    ours, reference = (make_view(how, **FULL) for how in ("native", "torch"))
    x = batch(8)
    p = reference.draw(8, 32, 32, generator())
    return (ours.render(x, p) - reference.render(x, p)).abs().max() * 255 < 0.01


@needs_compiler
def test_the_cache_is_nobody_elses(cache):
    before = os.umask(0)
    try:
        assert native.library().note == ""
    finally:
        os.umask(before)
    (file,) = cache.iterdir()
    modes = [path.stat().st_mode & 0o777 for path in (cache.parent, cache, file)]
    assert modes == [0o700] * 3
    assert renders_as_torch()


def open_folder(cache, file):
    cache.chmod(0o777)


def open_group(cache, file):
    cache.chmod(0o775)


def open_file(cache, file):
    file.chmod(0o666)


def linked_file(cache, file):
    file.rename(cache.parent / "elsewhere.so")
    file.symlink_to(cache.parent / "elsewhere.so")


def linked_folder(cache, file):
    cache.rename(cache.parent / "elsewhere")
    cache.symlink_to(cache.parent / "elsewhere")


def open_above(cache, file):
    cache.parent.chmod(0o777)


def foreign(which):
    def give_away(cache, file):
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown({"file": file, "folder": cache, "above": cache.parent}[which], 12345, -1)

    return give_away


UNSAFE = [
    (open_folder, "siamese is writable by others"),
    (open_group, "siamese is writable by others"),
    (open_above, "cache is writable by others"),
    (open_file, r"\.so is writable by others"),
    (linked_file, r"\.so is a symbolic link"),
    (linked_folder, "siamese is a symbolic link"),
    (foreign("file"), r"\.so belongs to another user"),
    (foreign("folder"), "siamese belongs to another user"),
    (foreign("above"), "cache belongs to another user"),
]


@needs_compiler
@pytest.mark.parametrize(("change", "why"), UNSAFE)
def test_a_library_that_others_could_have_put_there_is_not_loaded(cache, tmp_path, monkeypatch, change, why):
    with monkeypatch.context() as m:
        m.setattr(native, "Library", Mock())
        m.setattr(native, "_compile", lambda compiler, name, target: target.write_bytes(b"planted") and Mock())
        native.library()
    native.library.cache_clear()
    (file,) = cache.iterdir()  # to load it is an error
    change(cache, file)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    said = Views(0, [{}], **{**FULL, "compiled": True}).prepare(1, CPU)
    assert re.search(f"1 x 24 px, compiled .augment.compiled=true; compiled privately: .*{why}", said)
    assert renders_as_torch()
    assert file.read_bytes() == b"planted"
    assert os.listdir(file.parent) == [file.name]
    assert os.listdir(tmp_path / "temporary") == []


@needs_compiler
def test_a_cache_may_be_elsewhere(cache, tmp_path, monkeypatch):
    """A home or ~/.cache that is a link leads to the folders that are looked at."""
    (tmp_path / "disk").mkdir()
    cache.parent.symlink_to(tmp_path / "disk")
    assert native.library().note == ""
    assert len(os.listdir(tmp_path / "disk" / "siamese")) == 1
    native.library.cache_clear()
    (tmp_path / "disk").chmod(0o777)
    assert "disk is writable by others" in native.library().note


@needs_compiler
def test_without_a_home_the_library_is_compiled_privately(cache):
    cache.parent.write_text("no folder")
    assert "File exists" in native.library().note
    assert renders_as_torch()


@needs_compiler
def test_nothing_half_made_stays(cache, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(native.CompilerError, match=r"views-\w+.so cannot be made or loaded .No space left"):
        native.library()
    assert os.listdir(cache) == []


def changed(**changes):
    """A right batch of 5 images of 32 x 32 pixels, its parameters, and the view; values are replaced by `changes`."""
    view, x = make_view("native", **{**FULL, "rotate_degrees": 10.0}), batch(5)
    p = view.draw(5, 32, 32, generator())
    p = replace(p, jitter=torch.ones(5, dtype=torch.bool), blur=torch.ones(5, dtype=torch.bool))
    for name in ("mean", "std", "size", "low", "high"):
        if name in changes:
            setattr(view, name, changes.pop(name))
    blur = next(o for o in view.operations if isinstance(o, Blur))
    blur.kernel = changes.pop("blur_kernel", blur.kernel)
    return view, changes.pop("images", x), replace(p, **changes)


def with_value(name, index, value):
    tensor = getattr(changed()[2], name).clone()
    tensor[index] = value
    return {name: tensor}


NAN, INF = float("nan"), float("inf")
WRONG = [
    *(({"images": torch.zeros(5, n, 32, 32)}, rf"must have one channel.*\[{n}, 3\]") for n in (0, 2, 4)),
    ({"images": torch.zeros(5, 3, 32, 32).double()}, "torch.float64 on cpu, not"),
    ({"images": torch.zeros(3, 32, 32, dtype=torch.uint8)}, r"\(3, 32, 32\) torch.uint8 on cpu, not \(B, C, H, W\)"),
    ({"images": torch.zeros(6, 3, 32, 32, dtype=torch.uint8)}, r"box is \(5, 4\) torch.int64 on cpu, not \(6, 4\)"),
    ({"images": torch.zeros(5, 3, 0, 32, dtype=torch.uint8)}, "no pixels or too many"),
    ({"size": 0}, "no pixels or too many: size 0"),
    *(({name: torch.zeros(4)}, f"{name} is .4,. torch.float32") for name in ("degrees", "sigma", "mean", "std")),
    *(({name: torch.zeros(6) > 0}, f"{name} is .6,.") for name in ("flip", "jitter", "gray", "blur", "solarize")),
    *(({name: torch.zeros(5, 3)}, f"{name} is .5, 3.") for name in ("box", "factors", "order")),
    *(({name: torch.zeros(5, 4)}, f"{name} is .* not .5, 4. torch.int64") for name in ("box", "order")),
    ({"flip": torch.zeros(5)}, "flip is .* not .5,. torch.bool"),
    ({"sigma": torch.ones(5, device="meta")}, "sigma is .* on meta"),
    (
        with_value("box", (4, 3), 0),
        r"a box has no pixel or leaves its image: boxes up to .*, 0\]$",
    ),
    (with_value("box", (0, 0), 30), r"5 images of 32 x 32 pixels: .* boxes up to \[30"),
    (with_value("box", (2, 1), -1), "a box has no pixel or leaves its image"),
    (with_value("order", (4, 0), 4), r"must be a permutation of 0 to 3: orders up to \[4"),
    ({"order": torch.zeros(5, 4, dtype=torch.int64)}, "must be a permutation of 0 to 3"),
    (with_value("factors", (3, 2), NAN), r"colour's factor is not finite: factors up to .* nan"),
    (with_value("factors", (3, 2), -INF), "colour's factor is not finite: .* -inf"),
    (with_value("degrees", 1, INF), "a rotation is not finite: degrees up to .inf"),
    (with_value("sigma", 1, NAN), "sigma is not finite and positive: sigmas up to .nan"),
    (with_value("sigma", 1, 0), r"sigma is not finite and positive: .* from .0\.0"),
    ({"mean": torch.tensor([0, NAN, 0])}, r"is not finite, or this is 0: \[\[0.0, nan, 0.0\], \[1"),
    ({"low": torch.tensor([0.0, 255.0, 0.0])}, r"range of the values is not finite, or empty: \[\[0.0, 255.0, 0.0\], "),
    ({"high": torch.tensor([1.0, 1.0, NAN])}, "range of the values is not finite"),
    ({"drop": torch.tensor([3, -1, -1, 0, 1])}, r"no such channel to drop: up to \[3\]"),
    ({"std": torch.tensor([1.0, 1.0, 0.0])}, r"this is 0: .* \[1.0, 1.0, 0.0\]\]"),
    ({"blur_kernel": 49}, "the blur's kernel is not odd and smaller than twice the view: 49"),
    ({"blur_kernel": 4}, "kernel is not odd"),
]


@needs_compiler
@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_the_renderer_takes_no_wrong_numbers(changes, message):
    view, images, p = changed(**changes)
    with pytest.raises(ValueError, match=message):
        view.render(images, p)


@needs_compiler
def test_the_renderer_takes_right_numbers_of_other_kinds():
    view, images, p = changed()
    expected = view.render(images, p)
    wide = replace(p, factors=p.factors.double(), box=p.box.int(), sigma=p.sigma.repeat_interleave(2)[::2])
    assert torch.equal(view.render(images, wide), expected)
    assert torch.equal(view.render(images[:0], view.draw(0, 32, 32, generator())), expected[:0])
    view, images = make_view("native", **{**PLAIN, "size": 1, "blur_p": 0.0}), batch(3, 1)
    p = view.draw(3, 1, 1, generator())
    blur = next(o for o in view.operations if isinstance(o, Blur))
    blur.kernel = 1  # the only one that a single pixel can have: it changes nothing
    blurred = view.render(images, replace(p, blur=torch.ones(3, dtype=torch.bool)))
    torch.testing.assert_close(blurred * 255, images.float())


@needs_compiler
def test_memory_that_is_not_there_is_an_exception(monkeypatch):
    view, images, p = changed()
    monkeypatch.setattr(native.library(), "render", lambda batch, threads: ("memory", "there is not enough memory"))
    with pytest.raises(MemoryError, match="5 images of 32 x 32 pixels: there is not enough memory$"):
        view.render(images, p)


def sanitised(tmp_path):
    """The driver with views.cpp, compiled under the sanitisers with what the library takes of arithmetic."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    checks = ["-fsanitize=address,undefined,float-cast-overflow,float-divide-by-zero", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.cpp").write_text("int main() {}")
    empty = [compiler, *checks, str(tmp_path / "empty.cpp"), "-o", str(tmp_path / "empty")]
    if subprocess.run(empty, capture_output=True).returncode or subprocess.run([tmp_path / "empty"]).returncode:
        pytest.skip(f"{compiler} has no address and undefined-behaviour sanitisers here (libasan, libubsan)")
    kept = [flag for flag in native.FLAGS if flag not in ("-O3", "-march=native", "-shared", "-fPIC")]
    assert "-std=c++17" in kept and "-ffinite-math-only" in kept
    program = tmp_path / "driver"
    debug = ["-g", "-O1", "-D_GLIBCXX_ASSERTIONS", f"-I{native.SOURCE.parent}"]
    subprocess.run([compiler, *kept, *checks, *debug, str(DRIVER), "-o", str(program)], check=True)
    return program


@pytest.mark.slow
def test_the_renderer_stays_in_its_memory(tmp_path):
    """Random shapes and boxes in buffers of exactly the needed size, and wrong ones, which are refused."""
    program = sanitised(tmp_path)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # leaks need ptrace, which containers forbid
    for seed in range(2):
        done = subprocess.run([program, str(seed), "500"], capture_output=True, text=True, env=environment, timeout=120)
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr[:3000]
