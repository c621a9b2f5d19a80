"""bfloat16 on a CPU: images per second of SimCLR's model step against float32, the two in turn.

    python benchmarks/cpu_precision.py                    about four minutes on two cores

The step is that of benchmarks/throughput.py: loss, backward, optimiser, on views that are ready. Medians over rounds.
Prints what the processor computes in bfloat16, a table and one JSON line. Let nothing else run.
"""

import argparse
import json
import statistics
import tempfile
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from augment import smooth_images
from throughput import bare_rate, config

CASES = (("small", 16, 256), ("resnet18_small", 32, 64), ("resnet50", 224, 8), ("vit_tiny", 224, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=[c[0] for c in CASES], help="backbones")
    a = parser.parse_args()
    can = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    print(f"{', '.join(name for name, has in can.items() if has) or 'neither AVX512-BF16 nor AMX'}; "
          f"{torch.get_num_threads()} threads; torch {torch.__version__}")  # fmt: skip
    print("| backbone | pixels | batch | float32 | bfloat16 | gain |", "|---" * 6 + "|", sep="\n")
    out: dict[str, Any] = {}
    for backbone, size, batch in CASES:
        if backbone not in a.cases:
            continue
        with tempfile.TemporaryDirectory() as folder:
            images = smooth_images(4 * batch, size)
            np.savez(f"{folder}/images.npz", train_images=images, train_labels=np.arange(len(images)) % 4)
            asked: Any = SimpleNamespace(size=size, batch=batch, backbone=backbone, files=False, device="cpu")
            cfg = config(asked, "simclr", folder)
            rates: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
            for _ in range(a.rounds):
                for precision, found in rates.items():
                    cfg.trainer.precision = precision
                    found.append(bare_rate(cfg, images, a.seconds, torch.device("cpu")))
        full, half = (statistics.median(found) for found in rates.values())
        print(f"| {backbone} | {size} | {batch} | {full:.1f} | {half:.1f} | {half / full:.2f} |", flush=True)
        out[backbone] = rates
    print(json.dumps({"benchmark": "cpu_precision", "processor": can, "images_per_second": out}))


if __name__ == "__main__":
    main()
