#!/usr/bin/env bash
# CIFAR-10 in sittings: trains until the seconds are spent, saves, and goes on at the next call; at the end the table.
#
#     benchmarks/cifar10.sh METHOD EPOCHS SECONDS [OVERRIDES OF train.py …]
#     benchmarks/cifar10.sh simclr 200 540 data.download=true
#     benchmarks/cifar10.sh simclr 200 540 data=npz data.path=cifar10.npz
#
# METHOD is one of conf/experiment/cifar10, as in simclr or solo_learn/simclr (1,000 epochs).
# SEED=1 takes another seed, OUT another folder than outputs/cifar10.
# Exit code 0: finished; 75: the seconds are spent, call it again; another: what train.py says.
set -uo pipefail
[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
method=$1 epochs=$2 seconds=$3 seed=${SEED:-0}
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
run=${OUT:-outputs/cifar10}/${method}_${epochs}_seed$seed
if ! grep -qs '"finished": true' "$run/summary.json"; then
  # SIGTERM lets the step end and saves; two minutes later it would be killed.
  timeout --kill-after=120 "$seconds" python "$root/train.py" "experiment=cifar10/$method" "epochs=$epochs" "seed=$seed" \
    "run_dir=$run" resume=auto "$@"
  code=$?
  if [ $code = 124 ] || [ $code = 143 ]; then
    echo "the $seconds s are spent; call it again to go on"
    exit 75
  fi
  [ $code = 0 ] || exit $code
fi
python "$root/eval_linear.py" "ckpt=$run/checkpoints/last.ckpt" "run_dir=$run/eval" overwrite=true || exit $?
python - "$run" "$(date -u +%F)" "$(git -C "$root" rev-parse --short HEAD)" <<'PY'
import json, sys
from pathlib import Path
run, date, commit = Path(sys.argv[1]), *sys.argv[2:]
trained, judged = (json.loads((run / name).read_text()) for name in ("summary.json", "eval/results.json"))
keys = ("method", "epochs", "seed", "train_seconds", "images_per_second", "peak_memory_mb", "device", "versions")
print(json.dumps({k: trained[k] for k in keys} | {k: judged[k] for k in ("knn_top1", "linear_top1")}
                 | {"date": date, "commit": commit}))
PY
