#!/bin/sh
# Trains the quick net in its two stages; the word `full` takes the full net (three stages),
# `full_sigmoid` or `full_sigmoid_bn` one of its relatives. Flags of `caffe train` may follow. See
# ../launch.sh for many nodes.
set -eu

net=quick
case ${1:-} in
    quick | full | full_sigmoid | full_sigmoid_bn) net=$1 && shift ;;
esac
here=examples/cifar10/cifar10_$net
stage() {
    name=$1 && shift
    "$launch" --solver="${here}_solver$name.prototxt" "$@"
}

launch=$(dirname "$0")/../launch.sh
stage "" "$@"
case $net in
    quick) stage _lr1 --snapshot=${here}_iter_4000.solverstate "$@" ;;
    full)
        stage _lr1 --snapshot=${here}_iter_60000.solverstate "$@"
        stage _lr2 --snapshot=${here}_iter_65000.solverstate "$@"
        ;;
esac
