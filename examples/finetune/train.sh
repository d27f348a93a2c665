#!/bin/sh
# Fine-tunes CaffeNet, whose weights are named first; flags of `caffe train` may follow. See
# ../launch.sh for many nodes.
#
#   examples/finetune/train.sh bvlc_reference_caffenet.caffemodel
set -eu

if [ $# -eq 0 ]; then
    echo "train.sh: name the CaffeNet weights to start from, a .caffemodel" >&2
    exit 1
fi
weights=$1 && shift
exec "$(dirname "$0")/../launch.sh" --solver=examples/finetune/solver.prototxt --weights="$weights" "$@"
