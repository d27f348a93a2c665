#!/bin/sh
# Makes the data where there are none, then trains the net with a hidden layer; the word `logistic`
# takes logistic regression. Flags of `caffe train` may follow. See ../launch.sh for many nodes.
set -eu

kind=hidden
case ${1:-} in
    hidden | logistic) kind=$1 && shift ;;
esac
cd "$(dirname "$0")/../.."
here=examples/hdf5_classification
if [ ! -e $here/train.h5 ]; then
    caffe=${CAFFE:-$(command -v caffe || echo target/release/caffe)}
    "$caffe" test --model=$here/make_data.prototxt --iterations=10
fi
exec examples/launch.sh --solver=$here/${kind}_solver.prototxt "$@"
