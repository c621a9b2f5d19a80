"""`siamese export` as a user runs it."""

import os

import processes
from export_cases import make
from paths import ROOT

# The limit is set after torch is imported, which writes to the temporary folder.
LIMITED = """
import resource, sys
import siamese.training
from siamese.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
main()
"""


def start(folder, *words):
    return processes.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT / "ssl")}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def test_a_third_party_file_is_described_by_groups(tmp_path):
    """`data=` and `backbone=` are groups; the screen shows proof, folder and code, and no library's warnings."""
    import torch

    torch.save(make("resnet", tmp_path).network.state_dict(), tmp_path / "r.pth")
    given = (
        "ckpt=r.pth",
        "backbone=resnet18",
        "data=digits",
        "data.crop=32",
        "to=torchvision",
        "out=new/o",
        "images=8",
    )
    done = start(tmp_path, "-m", "siamese", "export", *given)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    seen, proof, folder, code = done.stdout.splitlines()
    assert seen.startswith("input: 3 channels of 32 x 32 pixels, mean [0.306, 0.306, 0.306], std [")
    assert proof.startswith("proof: 8 images of digits, largest difference ")
    assert folder == f"exported: {tmp_path}/new/o"
    assert code.startswith(
        'load it by: model = torchvision.models.get_model("resnet18"); model.fc = torch.nn.Identity(); '
    )
    assert sorted(f.name for f in (tmp_path / "new" / "o").iterdir()) == ["config.json", "model.pth"]


def test_a_full_disk_leaves_nothing(tmp_path):
    file = make("small", tmp_path).file
    before = sorted(tmp_path.rglob("*"))
    done = start(tmp_path, "-c", LIMITED, "export", f"ckpt={file}", "to=safetensors", "out=a/o", "images=4")
    assert done.returncode == 1
    assert done.stderr == (f"error: {tmp_path}/a/o cannot be written (File too large); make room, then export again\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mistake_is_one_line(tmp_path):
    done = start(tmp_path, "-m", "siamese", "export", "ckpt=x", "to=onnx", "out=o", "imges=3")
    assert done.returncode == 2 and done.stderr.startswith("error: imges=3: ") and done.stderr.count("\n") == 1
    assert "images" in done.stderr and list(tmp_path.iterdir()) == []
