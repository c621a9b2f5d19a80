import pytest
import torch
from sklearn.datasets import load_digits

from siamese.probes import Features


@pytest.fixture(scope="session")
def digits():
    """Pixels of the digits as features: for training, for testing."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    x += 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))  # no ties
    return Features(x[:1200], y[:1200]), Features(x[1200:], y[1200:])
