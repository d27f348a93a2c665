#!/usr/bin/env bash
# A trace of two ranks that train cifar10_quick, and what `caffe trace` says of it: the report on
# standard output; all.json for Perfetto, timeline.svg and timeline.png in the folder.
#
#   usage: scripts/bench/report.sh [FOLDER [MODE [ITERATIONS]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-$(mktemp -d)}
mode=${2:-sync}
iterations=${3:-200}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

cargo build --release >&2
caffe=$PWD/target/release/caffe
mkdir -p "$folder/data"
[ -d "$folder/data/cifar10_train_leveldb" ] || "$caffe" generate_data "$folder/data" >&2
[ -f "$folder/data/mean.binaryproto" ] ||
  "$caffe" compute_image_mean -backend=leveldb "$folder/data/cifar10_train_leveldb" "$folder/data/mean.binaryproto" >&2
sed -e "s|examples/cifar10/cifar10_|$folder/data/cifar10_|" -e "s|examples/cifar10/mean|$folder/data/mean|" \
  examples/cifar10/cifar10_quick_train_test.prototxt > "$folder/net.prototxt"
cat > "$folder/solver.prototxt" <<SOLVER
net: "$folder/net.prototxt"
base_lr: 0.001 momentum: 0.9 weight_decay: 0.004 lr_policy: "fixed" random_seed: 1
max_iter: $iterations display: 50 test_iter: 10 test_interval: 100
snapshot: 100 snapshot_prefix: "$folder/quick"
SOLVER
rm -rf "$folder/trace"
mpirun -n 2 --oversubscribe --bind-to none "$caffe" train --solver="$folder/solver.prototxt" --mode="$mode" \
  --threads=1 --trace="$folder/trace" --metrics="$folder/metrics.jsonl" 2> "$folder/train.log" ||
  { cat "$folder/train.log" >&2; exit 1; }
"$caffe" trace merge "$folder/trace" -o "$folder/all.json" >&2
"$caffe" trace plot "$folder/trace" "$folder/timeline.svg" >&2
"$caffe" trace plot "$folder/trace" "$folder/timeline.png" >&2
"$caffe" trace report "$folder/trace"
