#!/bin/sh
# Trains VGG-16; flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

exec "$(dirname "$0")/../launch.sh" --solver=examples/vgg16/solver.prototxt "$@"
