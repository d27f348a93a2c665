#!/usr/bin/env bash
# Accuracy of cifar10_quick on real CIFAR-10 by mode and number of replicas, at the same number of images:
# two ranks under mpirun (one for one replica), 96 images an iteration divided among the replicas.
#
#   usage: scripts/bench/modes.sh [OUTPUT_FOLDER]
#
#   CIFAR10_DIR  folder with data_batch_1.bin, data_batch_2.bin and test_batch.bin  (../shared/data/cifar10)
#   REPLICAS "1 2 4 8"   MODES "sync hogwild ssp local-sgd"   RATES "1 3"   SEEDS "1 2 3"
#   ITERATIONS 600   TEST_EVERY 150   CAFFE target/release/caffe
#
# A mode `hogwild:0` is hogwild with --look-ahead=0. A run whose log is there and ended well is not run again, so
# the script goes on where it was stopped. It appends a line a run to OUTPUT_FOLDER/runs.txt: mode, replicas, rate
# (times the published one), seed, seconds, accuracy at each test.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-$(mktemp -d)}
cifar=${CIFAR10_DIR:-../shared/data/cifar10}
caffe=${CAFFE:-$PWD/target/release/caffe}
iterations=${ITERATIONS:-600}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ -f "$cifar/test_batch.bin" ] || { echo "modes: no CIFAR-10 in $cifar; set CIFAR10_DIR" >&2; exit 1; }
[ -n "${CAFFE:-}" ] || cargo build --release --quiet
mkdir -p "$out"

if [ ! -f "$out/net.prototxt" ]; then
  rm -rf "$out"/cifar10_{train,test}_leveldb
  "$caffe" convert_cifar_data "$cifar" "$out" leveldb 2>"$out/convert.log"
  "$caffe" compute_image_mean -backend=leveldb "$out/cifar10_train_leveldb" "$out/mean.binaryproto" 2>>"$out/convert.log"
  sed -e "s|examples/cifar10/cifar10_train_leveldb|$out/cifar10_train_leveldb|" \
      -e "s|examples/cifar10/cifar10_test_leveldb|$out/cifar10_test_leveldb|" \
      -e "s|examples/cifar10/mean.binaryproto|$out/mean.binaryproto|" \
      -e "0,/batch_size: 100/s//batch_size: 96/" \
      examples/cifar10/cifar10_quick_train_test.prototxt >"$out/net.prototxt"
fi

run() { # mode, replicas, rate, seed
  local name=$1-$2-$3-$4 mode=${1%%:*} ranks=2
  ! grep -q 'Optimization Done' "$out/$name.log" 2>/dev/null || return 0
  [ "$2" -gt 1 ] || ranks=1
  local flags=(--mode="$mode" --workers=$(($2 / ranks)) --batch=global)
  [ "$1" = "$mode" ] || flags+=(--look-ahead="${1#*:}")
  local rate
  rate=$(awk -v r="$3" 'BEGIN { print 0.001 * r }')
  sed -e "s|^net:.*|net: \"$out/net.prototxt\"|" -e "s|^max_iter:.*|max_iter: $iterations|" \
      -e "s|^base_lr:.*|base_lr: $rate|" -e "s|^test_interval:.*|test_interval: ${TEST_EVERY:-150}|" \
      -e "s|^snapshot:.*|snapshot: 0\nsnapshot_after_train: false\nrandom_seed: $4\ntest_initialization: false|" \
      examples/cifar10/cifar10_quick_solver.prototxt >"$out/$name.prototxt"
  mpirun -n "$ranks" --oversubscribe --bind-to none "$caffe" train --solver="$out/$name.prototxt" "${flags[@]}" \
    2>"$out/$name.log" || { tail -3 "$out/$name.log" >&2; exit 1; }
  printf '%s %s %s %s %s %s\n' "$1" "$2" "$3" "$4" \
    "$(sed -nE 's/.* iterations in ([0-9.]+) s.*/\1/p' "$out/$name.log")" \
    "$(sed -nE 's/.*accuracy = ([0-9.]+).*/\1/p' "$out/$name.log" | tr '\n' ' ')" | tee -a "$out/runs.txt"
}

for seed in ${SEEDS:-1 2 3}; do
  for rate in ${RATES:-1 3}; do
    for replicas in ${REPLICAS:-1 2 4 8}; do
      for mode in ${MODES:-sync hogwild ssp local-sgd}; do
        if [ "$replicas" -gt 1 ] || [ "$mode" = sync ]; then run "$mode" "$replicas" "$rate" "$seed"; fi
      done
    done
  done
done
