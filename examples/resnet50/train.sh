#!/bin/sh
# Trains ResNet-50; flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/resnet50/solver.prototxt "$@"
