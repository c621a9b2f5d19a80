#!/usr/bin/env bash
# Everything that wants a GPU, in at most nine minutes: tables last. `benchmarks/gpu.sh cpu` tries the commands on a CPU.
#
#     benchmarks/gpu.sh > benchmarks/results/<date>-<device>.txt
set -uo pipefail
cd "$(dirname "$0")/.."
run() { echo; echo "\$ $*"; timeout "$limit" "$@" 2>&1 | tail -n 40; }
if [ "${1:-cuda}" = cpu ]; then
  limit=120
  run python benchmarks/throughput.py --methods simclr --batch 64 --batches 12 --seconds 2 --rounds 1
  run python benchmarks/throughput.py --methods simclr --size 224 --batch 8 --batches 12 --files --seconds 2 --rounds 1
  run python benchmarks/scaling.py --methods simsiam --epochs 4
else
  limit=200
  run nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  run python -m pytest -q -n0 tests/test_gpu.py
  run python -m pytest -q -n0 tests/augment -k "triton or gpu or kernels"
  run python benchmarks/throughput.py --device cuda --backbone resnet18_small --batch 512 --batches 60 --seconds 4 --rounds 1 --workers 14
  run python benchmarks/throughput.py --device cuda --backbone resnet50 --size 224 --batch 256 --batches 24 --seconds 4 --rounds 1 \
    --files --workers 14 --methods simclr
  limit=60
  run python benchmarks/scaling.py --accelerator gpu --processes "$(nvidia-smi -L | wc -l)" --methods simclr,byol
fi
python -c "import torch, torchvision, pytorch_lightning as pl; print('torch', torch.__version__, 'torchvision', torchvision.__version__, 'pytorch-lightning', pl.__version__)"
