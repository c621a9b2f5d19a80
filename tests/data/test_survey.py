"""What the survey of encoded images finds."""

import numpy as np
import pytest
from PIL import Image

from siamese.data.items import Files
from siamese.data.survey import longest_ratio, survey


@pytest.fixture
def found(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (10, 400), dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 65536, (5, 5), dtype=np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "bands.npy", np.full((40, 50, 4), 2.5, np.float32))
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image at all")
    return Files(sorted(tmp_path.iterdir()))


def test_everything_is_counted(found):
    seen = survey(found, 10**6, threads=2, limit=100)
    assert (seen.images, seen.read) == (8, 8)
    assert dict(seen.kinds) == {
        ("PNG", "RGB", 3, "uint8"): 3, ("PNG", "L", 1, "uint8"): 1, ("PNG", "L;16", 1, "uint16"): 1,
        ("NPY", "float32 YXC", 4, "float32"): 1,
    }  # fmt: skip
    reasons = {name.rpartition("/")[2]: reason for reason, names in seen.unreadable.items() for name in names}
    assert set(reasons) == {"cut.png", "text.jpg"}
    assert "no image of a known format" in reasons["text.jpg"]
    assert [name.rpartition("/")[2] for name in seen.constant] == ["bands.npy"]
    assert seen.size_range() == "5 x 5, 20 x 32, 10 x 400"
    assert longest_ratio(seen.sizes) == 40
    assert seen.seconds > 0


def test_a_seeded_choice_of_many(found):
    assert [survey(found, 10**6, 1, limit=3).read for _ in range(2)] == [3, 3]
    assert survey(found, 10**6, 1, 3).sizes == survey(found, 10**6, 1, 3).sizes


def test_too_many_pixels_are_unreadable(found):
    seen = survey(found, 600, threads=1, limit=100)
    assert sum(map(len, seen.unreadable.values())) == 8 - 2  # 20 x 30 and 5 x 5
