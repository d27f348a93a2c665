#!/usr/bin/env bash
# The tests of MPI with Debian's MPICH beside Open MPI: the actors' tests over real ranks, then a short
# `caffe train` on two ranks. Which MPI a program uses is fixed when it is built, and cargo does not
# notice another $MPICC, so this has a target folder of its own. Skipped where MPICH is missing.
#
#   usage: scripts/test-mpich.sh
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v mpicc.mpich >/dev/null || ! command -v mpirun.mpich >/dev/null; then
  echo "skipped: no mpicc.mpich and mpirun.mpich here (Debian: libmpich-dev, mpich)"
  exit 0
fi
export MPICC=mpicc.mpich MPIRUN=mpirun.mpich CARGO_TARGET_DIR=$PWD/target/mpich

# Unoptimised: it has to be built once more, and shall train for seconds only.
cargo build --quiet --no-default-features --features mpi --bin caffe
cargo build --quiet --package caffe-actors --example quadratic
cargo test --package caffe-actors --test mpi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
caffe=$CARGO_TARGET_DIR/debug/caffe
"$caffe" generate_data "$work" --train=200 --test=50 2>"$work/log"
cat >"$work/net.prototxt" <<END
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.0078125 }
  data_param { source: "$work/cifar10_train_leveldb" batch_size: 10 backend: LEVELDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
END
cat >"$work/solver.prototxt" <<END
net: "$work/net.prototxt" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: 20 display: 10
snapshot_prefix: "$work/snap" random_seed: 1
END
for flags in "--mode=sync --wire=bf16" "--mode=hogwild"; do
  # shellcheck disable=SC2086
  if ! mpirun.mpich -n 2 "$caffe" train --solver="$work/solver.prototxt" --threads=1 $flags 2>"$work/log" ||
    ! grep -q "2 replicas on 2 ranks.*MPICH" "$work/log" || [ ! -s "$work/snap_iter_20.caffemodel" ]; then
    cat "$work/log" >&2
    echo "test-mpich: caffe train $flags failed over MPICH" >&2
    exit 1
  fi
  echo "caffe train $flags on 2 ranks over MPICH: $(grep -o 'Iteration 20, loss = .*' "$work/log")"
  rm "$work"/snap_*
done
