"""Paths as users write them."""

import pytest
from PIL import Image

from siamese.errors import UserError
from siamese.training import build, check


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 300])
@pytest.mark.parametrize("key", ["run_dir", "init_from", "data.path", "data.packed"])
def test_impossible_path_names_its_key(config, tiny, tmp_path, monkeypatch, key, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    data = ["data=folder", "data.path=photos", "backbone=small"]
    with pytest.raises(UserError, match=f"^{key}=.*: cannot be a path"):
        build(check(config(*data, *tiny, f"{key}='{path}'")))
