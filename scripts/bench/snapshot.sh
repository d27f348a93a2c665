#!/usr/bin/env bash
# How long training stands still for a snapshot of GoogLeNet's size (13.4 million weights and as many
# of momentum): the copy, which is what it waits for, and the writing, which goes on beside it.
#
#   usage: scripts/bench/snapshot.sh      CAFFE=target/release/caffe
set -euo pipefail
cd "$(dirname "$0")/../.."
caffe=${CAFFE:-target/release/caffe}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/net.prototxt" <<NET
layer { name: 'data' type: 'DummyData' top: 'data' top: 'goal' dummy_data_param {
  shape { dim: 1 dim: 3658 } shape { dim: 1 dim: 3658 } } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'
  inner_product_param { num_output: 3658 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'EuclideanLoss' bottom: 'ip' bottom: 'goal' top: 'loss' }
NET
echo "net: '$dir/net.prototxt' base_lr: 0.001 momentum: 0.9 lr_policy: 'fixed' max_iter: 60 snapshot: 10
  snapshot_prefix: '$dir/snap'" >"$dir/solver.prototxt"
"$caffe" train --solver="$dir/solver.prototxt" --trace="$dir" --keep-last=2 >"$dir/log" 2>&1 || {
  cat "$dir/log"
  exit 1
}
python3 - "$dir/trace-rank-0.json" <<'PY'
import json, statistics, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
for name, what in (("snapshot", "copy (training waits)"), ("write snapshot", "writing (training goes on)")):
    times = [e["dur"] / 1e3 for e in events if e.get("ph") == "X" and e["name"] == name]
    print(f"{what}: median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms, of {len(times)}")
PY
