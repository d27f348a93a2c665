#!/usr/bin/env bash
# How well cifar10_quick learns, by mode: test accuracy on all 10,000 images after 500, 1,000 and 1,500
# iterations of 100 images, three seeds each: one process x batch 100, and mpirun -n 2 x batch 50 in both modes.
# Then LeNet on MNIST, one process, 10,000 iterations.
#
#   usage: scripts/bench/convergence.sh [OUTPUT_FOLDER]
#
#   CIFAR10_DIR  folder with data_batch_1.bin, data_batch_2.bin and test_batch.bin  (../shared/data/cifar10)
#   MNIST_DIR    folder with the four idx files, plain or .gz                        (../shared/data/mnist)
#   SEEDS        default "1 2 3";  ITERATIONS  default 1500;  RUNS  default "one-process sync-2 hogwild-2"
#
# BVLC Caffe, one seed, on the same two batches: 0.5569, 0.6176, 0.6508.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-$(mktemp -d)}
cifar=${CIFAR10_DIR:-../shared/data/cifar10}
mnist=${MNIST_DIR:-../shared/data/mnist}
seeds=${SEEDS:-1 2 3}
iterations=${ITERATIONS:-1500}
caffe=$PWD/target/release/caffe
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ -f "$cifar/test_batch.bin" ] || { echo "convergence: no CIFAR-10 in $cifar; set CIFAR10_DIR" >&2; exit 1; }
cargo build --release --quiet
mkdir -p "$out"

rm -rf "$out"/cifar10_{train,test}_leveldb
"$caffe" convert_cifar_data "$cifar" "$out" leveldb 2>"$out/convert.log"
"$caffe" compute_image_mean -backend=leveldb "$out/cifar10_train_leveldb" "$out/mean.binaryproto" 2>>"$out/convert.log"
sed -e "s|examples/cifar10/cifar10_train_leveldb|$out/cifar10_train_leveldb|" \
    -e "s|examples/cifar10/cifar10_test_leveldb|$out/cifar10_test_leveldb|" \
    -e "s|examples/cifar10/mean.binaryproto|$out/mean.binaryproto|" \
    examples/cifar10/cifar10_quick_train_test.prototxt >"$out/net.prototxt"

accuracies() { grep -oE 'accuracy = [0-9.]+' "$1" | grep -oE '[0-9.]+$' | tail -n +2 | paste -sd' '; }

run() { # name, seed, command...
  local name=$1 seed=$2 log=$out/$1-$2.log
  shift 2
  sed -e "s|^net:.*|net: \"$out/net.prototxt\"|" -e "s|^max_iter:.*|max_iter: $iterations|" \
      -e "s|^snapshot:.*|snapshot: 0|" -e "s|^snapshot_prefix:.*|snapshot_prefix: \"$out/$name-$seed\"|" \
      examples/cifar10/cifar10_quick_solver.prototxt >"$out/solver-$name-$seed.prototxt"
  echo "random_seed: $seed" >>"$out/solver-$name-$seed.prototxt"
  "$@" train --solver="$out/solver-$name-$seed.prototxt" --batch=global "${flags[@]}" 2>"$log" ||
    { tail -3 "$log" >&2; exit 1; }
  printf '%-14s seed %s: %s   (%s)\n' "$name" "$seed" "$(accuracies "$log")" \
    "$(grep -oE '[0-9.]+ s, [0-9]+ img/s' "$log")" | tee -a "$out/table.txt"
}

: >"$out/table.txt"
two=(mpirun -n 2 --oversubscribe --bind-to none "$caffe")
for seed in $seeds; do
  for name in ${RUNS:-one-process sync-2 hogwild-2}; do
    case $name in
      one-process) flags=(); run "$name" "$seed" "$caffe" ;;
      *) flags=(--mode="${name%-2}"); run "$name" "$seed" "${two[@]}" ;;
    esac
  done
done
echo "means:"
for name in one-process sync-2 hogwild-2; do
  awk -v n="$name" '$1 == n { k++; a += $4; b += $5; c += $6 }
    END { if (k) printf "%-14s %.4f %.4f %.4f\n", n, a / k, b / k, c / k }' "$out/table.txt"
done

if [ -e "$mnist/train-images-idx3-ubyte" ] || [ -e "$mnist/train-images-idx3-ubyte.gz" ]; then
  file() { [ -e "$mnist/$1" ] && echo "$mnist/$1" || echo "$mnist/$1.gz"; }
  for set in train t10k; do
    "$caffe" convert_mnist_data -backend=leveldb "$(file $set-images-idx3-ubyte)" "$(file $set-labels-idx1-ubyte)" \
      "$out/mnist_$set" 2>>"$out/convert.log"
  done
  sed -E -e "s|source: *\"[^\"]*train[^\"]*\"|source: \"$out/mnist_train\"|" \
      -e "s|source: *\"[^\"]*test[^\"]*\"|source: \"$out/mnist_t10k\"|" \
      examples/mnist/lenet_train_test.prototxt >"$out/lenet.prototxt"
  sed -e "s|^net:.*|net: \"$out/lenet.prototxt\"|" -e "s|^snapshot_prefix:.*|snapshot_prefix: \"$out/lenet\"|" \
      examples/mnist/lenet_solver.prototxt >"$out/lenet_solver.prototxt"
  "$caffe" train --solver="$out/lenet_solver.prototxt" 2>"$out/lenet.log" || { tail -3 "$out/lenet.log" >&2; exit 1; }
  echo "LeNet on MNIST: accuracy $(accuracies "$out/lenet.log" | grep -oE '[0-9.]+$') ($(grep -oE '[0-9.]+ s, [0-9]+ img/s' "$out/lenet.log"))" |
    tee -a "$out/table.txt"
fi
