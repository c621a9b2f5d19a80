"""What the callbacks share."""

from pathlib import Path

import pytest

from siamese.training.state import RunState


class Write:
    """A write that raises these errors, one at each look, and then has the step 7."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def result(self):
        if self.errors:
            raise self.errors.pop(0)
        return 7


def test_an_interrupted_wait_is_taken_up_again():
    """torch's handler of SIGCHLD raises in whatever the main thread does when a worker has been killed."""
    state = RunState(Path("last.ckpt"), writing=Write(RuntimeError("DataLoader worker is killed")))
    with pytest.raises(RuntimeError, match="killed"):
        state.settle()
    assert state.saved_step == -1
    state.settle()
    assert state.saved_step == 7
    assert state.writing is None


def test_a_failed_write_keeps_the_step_before_it():
    state = RunState(Path("last.ckpt"), saved_step=3, writing=Write(OSError("full")))
    state.settle()
    assert (state.saved_step, str(state.write_error), state.writing) == (3, "full", None)
