#!/usr/bin/env bash
# From a fresh checkout to a trained net in a few minutes: installs what is missing, builds, makes a
# LevelDB, trains cifar10_quick with `mpirun -n 2`, and says how well and where everything lies.
#
#   usage: scripts/quickstart.sh [OUTPUT_FOLDER]       (default: quickstart)
#
#   CIFAR10_DIR=…   folder with data_batch_*.bin and test_batch.bin (scripts/fetch_cifar10.sh gets
#                   them). Without it a generated set of ten textured shapes is learned instead.
#   MODE=…          sync or hogwild (default hogwild)
#   ITERATIONS=…    default 1500
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-quickstart}
mode=${MODE:-hogwild}
iterations=${ITERATIONS:-1500}

scripts/setup.sh
echo "== building"
cargo build --release --quiet
caffe=target/release/caffe
mkdir -p "$out"

echo "== making databases in $out"
rm -rf "$out"/cifar10_{train,test}_leveldb
data=${CIFAR10_DIR:-}
[ -z "$data" ] && [ -f data/cifar10/test_batch.bin ] && data=data/cifar10
if [ -n "$data" ]; then
  set_name="CIFAR-10 from $data"
  "$caffe" convert_cifar_data "$data" "$out" leveldb 2>"$out/convert.log" || { cat "$out/convert.log" >&2; exit 1; }
else
  set_name="GENERATED images (ten textured shapes; not CIFAR-10)"
  "$caffe" generate_data "$out" 2>"$out/convert.log" || { cat "$out/convert.log" >&2; exit 1; }
fi
"$caffe" compute_image_mean -backend=leveldb "$out/cifar10_train_leveldb" "$out/mean.binaryproto" 2>>"$out/convert.log"

# The published cifar10_quick, on two replicas of batch 50 instead of one of batch 100.
sed -e "s|examples/cifar10/cifar10_train_leveldb|$out/cifar10_train_leveldb|" \
    -e "s|examples/cifar10/cifar10_test_leveldb|$out/cifar10_test_leveldb|" \
    -e "s|examples/cifar10/mean.binaryproto|$out/mean.binaryproto|" \
    examples/cifar10/cifar10_quick_train_test.prototxt >"$out/net.prototxt"
sed -e "s|^net:.*|net: \"$out/net.prototxt\"|" \
    -e "s|^snapshot_prefix:.*|snapshot_prefix: \"$out/cifar10_quick\"|" \
    -e "s|^max_iter:.*|max_iter: $iterations|" \
    -e "s|^snapshot:.*|snapshot: $iterations|" \
    examples/cifar10/cifar10_quick_solver.prototxt >"$out/solver.prototxt"

echo "== training on $set_name: mpirun -n 2, mode $mode, $iterations iterations of 2 x 50 images"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
begun=$SECONDS
set +e
mpirun -n 2 --oversubscribe --bind-to none \
  "$caffe" train --solver="$out/solver.prototxt" --mode="$mode" --batch=global --trace="$out/trace" \
  2>&1 | tee "$out/train.log" | grep -E --line-buffered 'Iteration .*(loss|Testing)|accuracy|replica|weights'
status=${PIPESTATUS[0]}
set -e
[ "$status" -eq 0 ] || { tail -5 "$out/train.log" >&2; exit 1; }

accuracy=$(grep -oE 'Test net output #[0-9]+: accuracy = [0-9.]+' "$out/train.log" | tail -1 | grep -oE '[0-9.]+$')
cat <<TXT

trained on $set_name
  test accuracy  $accuracy after $iterations iterations, $((SECONDS - begun)) s
  model          $out/cifar10_quick_iter_$iterations.caffemodel
  log            $out/train.log
  trace          $out/trace (open the files in https://ui.perfetto.dev)
TXT
