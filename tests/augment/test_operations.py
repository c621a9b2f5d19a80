"""An operation is written in one place for torch and in one for C++, and works before the second is written."""

import inspect

import pytest
import torch
from view_cases import FULL, PLAIN, batch, generator, needs_compiler

from siamese.augment import View, Views, native
from siamese.augment.operations import OPERATIONS, SHARED, Operation, draw_all, on_chosen
from siamese.errors import UserError
from siamese.schema import check, check_train
from siamese.schema.types import Probability

CPU = torch.device("cpu")


class Invert(Operation):
    """1 - x, with probability `invert_p`: what a contributor writes, file 1 of 3."""

    fields, more, place = ("invert",), 1, 55

    def __init__(self, invert_p: Probability = 0.0):
        self.p = invert_p

    def draw(self, *uniform, height, width, aspect_ratio):
        return {"invert": uniform[0][:, 0] < self.p}

    def apply(self, x, params, size):
        return on_chosen(x, params.invert, lambda part, i: 1 - part)


# File 2 of 3, views.cpp: the field in LAYOUT and in `Batch`, and the code. File 3: the key in conf/augment/_base.yaml.
ADDED_TO_CPP = (
    ('"solarize:bool: ', '"solarize:bool: invert:bool: '),
    ("  const uint8_t* solarize;\n", "  const uint8_t* solarize;\n  const uint8_t* invert;\n"),
    (
        "  if (b.solarize[i])\n",
        "  if (b.invert[i])\n    for (int64_t p = 0; p < 3 * pixels; ++p) x[p] = 1 - x[p];\n  if (b.solarize[i])\n",
    ),
)


@pytest.fixture
def with_invert():
    """`Invert` is named in OPERATIONS."""
    OPERATIONS.append(Invert)
    check._signature.cache_clear()
    yield
    OPERATIONS.remove(Invert)
    check._signature.cache_clear()


@pytest.fixture
def extended_renderer(monkeypatch, tmp_path):
    """views.cpp with `Invert`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = native.SOURCE.read_text()
    for before, after in ADDED_TO_CPP:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    (tmp_path / "views.cpp").write_text(source)
    (tmp_path / "planes.h").write_text(native.HEADERS[0].read_text())
    monkeypatch.setattr(native, "SOURCE", tmp_path / "views.cpp")
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@needs_compiler
def test_torch_and_cpp_know_the_same_fields():
    fields = [field for kind in OPERATIONS for field in kind.fields]
    assert sorted(native.library().fields) == sorted([*fields, "images", "low", "high", "mean", "std", "out"])
    view = View(**FULL)
    options = {key for operation in view.operations for key in operation.options()}
    assert sorted(native.library().options) == sorted(
        options | {"count", "stored", "channels", "pixel", "height", "width", "size"}
    )


def test_every_operation_draws_its_fields_for_every_sample():
    made = View(**FULL).operations
    params = draw_all(made, 5, 32, 24, generator())
    assert set(vars(params)) == {field for operation in made for field in operation.fields}
    assert all(len(value) == 5 for value in vars(params).values())
    columns = [c for operation in made for c in operation.columns]
    taken = [i for c in columns for i in (range(SHARED)[c] if isinstance(c, slice) else [c])]
    assert len(set(taken)) == len(taken) and max(taken) < SHARED


def test_an_added_operation_is_a_key_of_the_config(with_invert, config):
    cfg = config("augment=small/simclr", "+augment.invert_p=1.0", "data.crop=16")
    check_train(cfg)
    with pytest.raises(UserError, match=r"augment.invert_p=2.0: not a possible value; give a number in \[0, 1\]"):
        check_train(config("+augment.invert_p=2.0"))
    x, plain = batch(4), View(**PLAIN)
    inverted = View(**PLAIN, invert_p=1.0)
    p = inverted.draw(4, 32, 32, generator())
    torch.testing.assert_close(inverted.render(x, p), 1 - plain.render(x, p))


def test_an_added_operation_leaves_the_random_numbers_of_others_as_they_are(with_invert):
    with_it, without = View(**FULL, invert_p=0.5), View(**FULL)
    p, q = (view.draw(64, 32, 32, generator()) for view in (with_it, without))
    assert all(torch.equal(getattr(p, name), getattr(q, name)) for name in vars(q) if name != "invert")
    assert 10 < int(p.invert.sum()) < 54 and not q.invert.any()


@needs_compiler
def test_what_cpp_does_not_know_is_rendered_by_torch_and_said(with_invert):
    views = Views(0, [{}, {}], **FULL, invert_p=1.0, compiled="auto")
    note = views.prepare(10**9, CPU)
    assert "not compiled" in note and "but views.cpp does not know invert: torch renders" in note
    assert not any(view.compiled for view in views.views)
    with pytest.raises(UserError, match=r"augment.compiled=true: views.cpp does not know invert.*add it to views.cpp"):
        Views(0, [{}, {}], **FULL, invert_p=1.0, compiled=True).prepare(1, CPU)
    idle = Views(0, [{}, {}], **FULL, invert_p=0.0, compiled=True)
    idle.prepare(1, CPU)
    assert all(view.compiled == "cpu" for view in idle.views)


@needs_compiler
def test_one_field_and_its_code_teach_cpp_an_operation(with_invert, extended_renderer):
    views = Views(0, [{}, {}], **FULL, invert_p=0.5, compiled=True)
    assert "not compiled" not in views.prepare(1, CPU)
    view, x = views.views[0], batch(24)
    p = view.draw(24, 32, 32, generator())
    rendered = view.render(x, p)
    view.compiled = ""
    torch.testing.assert_close(rendered, view.render(x, p), atol=2e-3, rtol=0)
    assert p.invert.any() and not p.invert.all()


def test_the_settings_of_an_operation_are_typed():
    """So that conf/augment is checked by them."""
    for kind in OPERATIONS:
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        assert parameters and all(p.annotation is not p.empty for p in parameters)
