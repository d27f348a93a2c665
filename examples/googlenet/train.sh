#!/bin/sh
# Trains GoogLeNet with the quick solver; flags of `caffe train` may follow. See ../launch.sh for many
# nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/googlenet/quick_solver.prototxt "$@"
