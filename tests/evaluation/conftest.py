import pytest


@pytest.fixture
def trained(session):
    """A checkpoint of a run of a second."""
    run = session()
    run.fit()
    return run.state.checkpoint
