#!/bin/sh
# Trains SqueezeNet v1.1; flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/squeezenet/solver.prototxt "$@"
