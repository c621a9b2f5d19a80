"""What is printed never ends a run: other encodings, closed pipes, full disks, brackets in paths."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamese.output import Unfailing, console

ROOT = Path(__file__).resolve().parents[1]
RUN = [sys.executable, str(ROOT / "train.py"), "epochs=1", "backbone.widths=[4,8]", "eval.linear.epochs=1",
       "trainer=cpu", "run_dir=run"]  # fmt: skip


def finished(folder):
    return '"finished": true' in (folder / "run" / "summary.json").read_text()


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(RUN, cwd=tmp_path, env=environment, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")
    assert finished(tmp_path)


@pytest.mark.slow
def test_a_disk_that_is_full_and_a_reader_that_has_gone(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(RUN, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output cannot be written ([Errno 28] No space left on device); the run") == 1
    assert finished(tmp_path)
    read, write = os.pipe()
    os.close(read)
    again = [*RUN, "overwrite=true"]
    done = subprocess.run(again, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=240)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "standard output cannot be written ([Errno 32] Broken pipe); the run goes on without it\n"
    assert finished(tmp_path)


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stream_goes_on_and_says_so_once():
    told = io.StringIO()
    stream = Unfailing(Closed(), told)
    assert stream.write("abc") == 3
    stream.write("d")
    stream.flush()
    assert told.getvalue().count("the run goes on without it") == 1
    Unfailing(Closed(), None).write("x")
    assert stream.encoding is None  # what is not written is asked of the stream


def test_text_is_printed_as_it_is(capsys):
    console().print("out[/x] [red] :smile:")
    assert capsys.readouterr().out == "out[/x] [red] :smile:\n"
