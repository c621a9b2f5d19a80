"""siamese list, and the help of the commands that have no config."""

import os
import subprocess

import processes
import pytest
from paths import ROOT

from siamese.commands import listing
from siamese.errors import UserError
from siamese.options import options


def siamese(*words, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ssl"), "COLUMNS": "80"}
    return processes.run(["-m", "siamese", *words], env=environment, stderr=subprocess.PIPE, text=True,
                          timeout=60, **more)  # fmt: skip


def test_pipe_gets_whole_lines():
    """A terminal cuts them off at its width; a program reads them whole."""
    done = siamese("list", "experiment", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == options("experiment")
    assert max(map(len, lines)) > 80
    assert not any(line.endswith("…") for line in lines)


def test_pipe_that_is_closed_ends_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    done = siamese("list", stdout=write)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_each_option_has_a_description():
    for group in listing.GROUPS:
        for name in options(group):
            assert listing.described(group, name), f"{group}={name}"


def test_unknown_group_is_named():
    with pytest.raises(UserError, match="methods: is not a group that is listed; choose from method, backbone"):
        listing.main(["methods"])


@pytest.mark.parametrize("command", ["list", "report"])
def test_help(command):
    done = siamese(command, "--help", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert f"siamese {command}" in done.stdout
