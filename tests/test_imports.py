"""What is imported for nothing is left out, and comes when it is asked for."""

import subprocess
import sys

CODE = """
import sys
{first}
from siamese.imports import without_scipy_signal
with without_scipy_signal():
    {within}
{after}
"""


def run(within, after, first=""):
    code = CODE.format(first=first, within=within, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lightning_comes_without_scipy_signal():
    after = """
assert "scipy.signal" not in sys.modules and "scipy.stats" not in sys.modules
import scipy.signal
assert len(scipy.signal.windows.hamming(4)) == 4 and scipy.signal.__spec__ is not None
from scipy.signal import convolve
print(convolve([1, 2], [1, 1]).tolist(), pytorch_lightning.Trainer.__name__, torchmetrics.MeanMetric.__name__)
"""
    assert run("import pytorch_lightning, torchmetrics", after) == "[1, 3, 2] Trainer MeanMetric\n"


def test_who_asks_for_it_within_gets_it():
    within = "from scipy.signal import convolve; import scipy.signal as s; found = s.windows.hamming(4)"
    after = "import scipy.signal; print(len(found), scipy.signal.convolve is convolve, s is scipy.signal)"
    assert run(within, after) == "4 True True\n"


def test_where_it_is_there_it_stays():
    first = "import scipy.signal; before = scipy.signal"
    assert run("import scipy.signal; assert scipy.signal is before", "print(scipy.signal is before)", first) == "True\n"


def test_the_commands_import_neither_it_nor_statistics():
    """Their start is what importing Lightning takes, and little more (benchmarks/startup.py)."""
    code = "from siamese.commands import {0}; from omegaconf import OmegaConf\ntry: {0}.{1}(OmegaConf.create({2}))\n"
    code += "except Exception: pass\nimport sys; names = 'pytorch_lightning', 'scipy.signal', 'scipy.stats'\n"
    code += "print([name in sys.modules for name in names])"
    for command, function, cfg in (("train", "train", "{}"), ("eval", "evaluate", "{'compare': None}")):
        filled = code.format(command, function, cfg)
        done = subprocess.run([sys.executable, "-c", filled], capture_output=True, text=True)
        assert done.stdout == "[True, False, False]\n", done.stderr
