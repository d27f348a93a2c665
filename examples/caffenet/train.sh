#!/bin/sh
# Trains CaffeNet; flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/caffenet/solver.prototxt "$@"
