#!/bin/sh
# Trains AlexNet; flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/alexnet/solver.prototxt "$@"
