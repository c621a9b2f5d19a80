"""Options of Hydra in any place of the command line; one line about a wrong one."""

import itertools

import pytest
from hydra._internal.utils import get_args_parser

from siamese.commands.words import FLAGS, INFO, VALUES, options_first
from siamese.errors import UserError


def test_options_are_those_of_hydra():
    actions = get_args_parser()._actions
    assert {s for a in actions for s in a.option_strings} == {*FLAGS, *VALUES, *INFO}
    for action in actions:
        for name in action.option_strings:
            assert (action.nargs == 0) == (name in FLAGS), name
            assert (action.nargs == "?") == (name in INFO), name
            assert tuple(action.choices or ()) == VALUES.get(name, (action.choices and tuple(action.choices)) or ())


@pytest.mark.parametrize("words", list(itertools.permutations(["-m", "seed=0,1", "method=moco"])))
def test_multirun_stands_anywhere(words):
    sorted_words = options_first(words)
    parsed = get_args_parser().parse_args(sorted_words)
    assert parsed.multirun
    assert parsed.overrides == [w for w in words if w != "-m"]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["a=1", "--cfg", "job", "b=2"], "cfg", "job"),
        (["a=1", "--cfg=hydra", "b=2"], "cfg", "hydra"),
        (["a=1", "-c", "all", "--resolve", "b=2"], "resolve", True),
        (["a=1", "--info", "b=2"], "info", "all"),
        (["a=1", "-i", "defaults-tree", "b=2"], "info", "defaults-tree"),
        (["a=1", "-cn", "embed", "b=2"], "config_name", "embed"),
        (["a=1", "--package", "optimizer", "--cfg", "job", "b=2"], "package", "optimizer"),
        (["a=1", "--", "b=2", "-r"], "run", True),
    ],
)
def test_options_keep_their_values(words, field, value):
    parsed = get_args_parser().parse_args(options_first(words))
    assert getattr(parsed, field) == value
    assert parsed.overrides == ["a=1", "b=2"]


def test_key_is_removed_without_value():
    assert options_first(["~callbacks", "+x=-1"]) == ["~callbacks", "+x=-1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--foo", "--foo: no such option; --help lists settings"),
        ("seed=1 --multirn", "--multirn: no such option; did you mean --multirun?"),
        ("--epochs=3", "--epochs=3: no such option; settings have no dashes: epochs=3"),
        ("--epochs 3", "--epochs: no such option; --help lists settings"),
        ("-x", "-x: no such option"),
        ("--cfg", "--cfg: needs a value; give one of job, hydra, all, as in --cfg job"),
        ("--cfg seed=1", "--cfg seed=1: is not a value of it; give one of job"),
        ("--config-name", "--config-name: needs a value"),
        ("-m=2", "-m=2: -m takes no value"),
        ("--resolve", "--resolve: belongs to --cfg"),
        ("-m --cfg job", "--multirun --cfg: exclude each other"),
        ("-sc", "--shell-completion: needs a shell; give install=bash"),
        ("-sc install=csh", "--shell-completion: needs a shell"),
        ("simclr", "simclr: is not KEY=VALUE; did you mean method=simclr?"),
        ("digits", "digits: is not KEY=VALUE; did you mean data=digits or optimizer=digits?"),
        ("photos", "photos: is not KEY=VALUE; --help lists settings"),
    ],
)
def test_mistakes(words, told):
    with pytest.raises(UserError) as error:
        options_first(words.split())
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(("script", "words"), [("train.py", ["seed=1", "--foo"]), ("eval_linear.py", ["--cfg", "x"])])
def test_wrong_option_is_one_line(command, script, words):
    done = command(script, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {' '.join(words).removeprefix('seed=1 ')}: ")
    assert done.stderr.count("\n") == 1


def test_option_between_settings(command):
    done = command("train.py", "seed=7", "--cfg", "job", "epochs=9")
    assert done.returncode == 0, done.stderr
    assert "\nseed: 7\nepochs: 9\n" in done.stdout
