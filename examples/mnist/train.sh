#!/bin/sh
# Trains LeNet; a first word names another solver of this folder (adam, rmsprop, adadelta, nesterov,
# multistep, autoencoder, siamese). Flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

here=examples/mnist
solver=lenet_solver
case ${1:-} in
    adam | rmsprop | adadelta | nesterov | multistep) solver=lenet_$1_solver && shift ;;
    autoencoder | siamese) solver=mnist_$1_solver && shift ;;
esac
exec "$(dirname "$0")/../launch.sh" --solver=$here/$solver.prototxt "$@"
