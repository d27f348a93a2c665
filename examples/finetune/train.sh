#!/bin/sh
# Fine-tunes CaffeNet, whose weights are named first; flags of `caffe train` may follow. See
# ../launch.sh for many nodes.
#
#   examples/finetune/train.sh bvlc_reference_caffenet.caffemodel
set -eu

weights=${1:?name the CaffeNet weights to start from, a .caffemodel}
shift
exec "$(dirname "$0")/../launch.sh" --solver=examples/finetune/solver.prototxt --weights="$weights" "$@"
