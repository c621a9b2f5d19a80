"""Range, mean and standard deviation of training images, against NumPy."""

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.data import TensorImages
from siamese.data.files import ImageFiles, Kind
from siamese.data.statistics import IMAGES, mean_and_std, measured, value_range
from siamese.errors import UserError

AUTO = {"channels": "auto", "value_range": "auto", "mean": "auto", "std": "auto"}


def images(channels, dtype, count=40, side=20, seed=0):
    """(count, channels, side, side), each channel of its own level and spread."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.2, 0.6, channels)[:, None, None]
    x = level + rng.gamma(2, 0.05, (count, channels, side, side))
    scale = {"uint8": 255, "uint16": 9000, "float32": 0.01}[dtype]
    return (x * scale).clip(0, 65535 if dtype == "uint16" else 255).astype(dtype)


def store(x):
    return TensorImages(torch.from_numpy(x))


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_range_is_numpys_percentiles_of_each_channel(channels, dtype):
    x = images(channels, dtype)
    found = np.array(value_range(store(x)))
    flat = x.astype(np.float64).swapaxes(0, 1).reshape(channels, -1)
    expected = np.percentile(flat, (0.1, 99.9), axis=1).T
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.shape == (channels, 2)


def test_range_of_large_images_is_of_evenly_chosen_pixels():
    """A gradient from corner to corner: its percentiles are those of all pixels, whatever few are looked at."""
    ramp = np.linspace(0, 60_000, 200 * 200).reshape(1, 1, 200, 200).astype(np.uint16).repeat(8, 0)
    ((low, high),) = value_range(store(ramp))
    assert low == pytest.approx(60, abs=60) and high == pytest.approx(59_940, abs=60)


def test_range_of_eight_bits_is_that_of_the_type():
    assert value_range(store(images(3, "uint8"))) == [0.0, 255.0]


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_mean_and_deviation_are_numpys(channels, dtype):
    x = images(channels, dtype)
    found = measured(store(x), AUTO)
    pairs = np.array(found["value_range"] if dtype != "uint8" else [[0, 255]] * channels, np.float64)
    low, high = pairs[:, 0].reshape(-1, 1), pairs[:, 1].reshape(-1, 1)
    flat = x.astype(np.float64).swapaxes(0, 1).reshape(channels, -1)
    scaled = ((flat - low) / (high - low)).clip(0, 1)
    assert found["channels"] == channels
    np.testing.assert_allclose(found["mean"], scaled.mean(1), atol=1e-4)
    np.testing.assert_allclose(found["std"], scaled.std(1), rtol=1e-3)


@pytest.mark.parametrize(("dtype", "value"), [("uint16", 0), ("uint16", 700), ("float32", -2.5), ("uint8", 9)])
def test_constant_channel_is_divided_by_nothing(dtype, value):
    x = images(4, dtype)
    x[:, 2] = value
    found = measured(store(x), AUTO)
    if dtype != "uint8":
        assert found["value_range"][2] == [value, value + max(1, abs(value))]
    assert found["mean"][2] == (pytest.approx(value / 255, abs=1e-4) if dtype == "uint8" else 0)
    assert found["std"][2] == 1
    assert all(0 < std < 1 for i, std in enumerate(found["std"]) if i != 2)


class Counted(TensorImages):
    """Keeps which images were read."""

    def __init__(self, pixels):
        super().__init__(pixels)
        self.seen = []

    def read(self, indices, threads=1):
        self.seen += indices.tolist()
        return super().read(indices, threads)


def test_large_sets_are_judged_by_a_seeded_choice():
    x = torch.arange(IMAGES + 900, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    seen, found = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)  # the run's, on which the choice does not depend
        one = Counted(x)
        found.append(measured(one, AUTO))
        seen.append(one.seen)
    assert found[0] == found[1] and seen[0] == seen[1]
    assert len(set(seen[0])) == len(seen[0]) == IMAGES
    assert max(seen[0]) > IMAGES + 500  # not the first ones
    pixels = x[torch.tensor(seen[0])].double() / 255
    assert found[0]["mean"] == [pytest.approx(float(pixels.mean()), abs=1e-4)]


@pytest.mark.parametrize("key", ["mean", "std"])
def test_one_number_is_for_every_channel(key):
    found = measured(store(images(4, "uint16")), AUTO | {key: [0.25]})
    assert found[key] == [0.25] * 4
    assert len(found["mean"]) == len(found["std"]) == 4


def test_grey_is_measured_for_each_of_three_channels():
    x = images(1, "uint16")
    alone, three = measured(store(x), AUTO), measured(store(x), AUTO | {"channels": 3})
    for key in ("value_range", "mean", "std"):
        assert three[key] == alone[key] * 3


def test_unreadable_images_count_for_nothing(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), 60 * i).save(file)
    files[2].write_bytes(b"junk")
    kind = Kind(1, np.dtype(np.uint8), 1000)
    mean, std = mean_and_std(ImageFiles(files, 8, kind, "skip"), torch.zeros(1), torch.full((1,), 255.0))
    levels = np.array([0, 60, 180]) / 255
    assert mean == [pytest.approx(levels.mean(), abs=1e-4)] and std == [pytest.approx(levels.std(), rel=1e-3)]
    with pytest.raises(UserError, match=r"2\.png: cannot be decoded"):
        mean_and_std(ImageFiles(files, 8, kind, "stop"), torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, r"data.mean=\[0.1, 0.2, 0.3\]: is of 3 channels, the images have 4"),
        ({"std": [0.1, 0.2]}, r"data.std=\[0.1, 0.2\]: is of 2 channels, the images have 4"),
        ({"value_range": [[0, 1], [0, 2]]}, r"data.value_range=.*: is of 2 channels, the images have 4"),
        ({"channels": 3}, "data.channels=3: the images have 4 channels"),
    ],
)
def test_settings_for_other_channels_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        measured(store(images(4, "uint16")), AUTO | given)
