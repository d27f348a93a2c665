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

# Means over the seeds, in Markdown: accuracy at the end by mode (rows) and replicas (columns), and seconds.
summary() {
  awk '
    { key = $3 SUBSEP $1 SUBSEP $2; n[key]++; last[key] += $NF; time[key] += $5
      if (!($3 in rates)) { rates[$3]; order[++count] = $3 } modes[$1] }
    END {
      columns = split("1 2 4 8", replicas, " "); rows = split("sync hogwild ssp local-sgd hogwild:0", names, " ")
      for (r = 1; r <= count; r++) {
        rate = order[r]
        printf "\nrate x%s | 1 replica | 2 | 4 | 8 | seconds with 1, 2, 4, 8 | runs each\n---|---|---|---|---|---|---\n", rate
        for (m = 1; m <= rows; m++) if (names[m] in modes) {
          line = "`" names[m] "`"; times = ""; least = 1e9
          for (c = 1; c <= columns; c++) {
            key = rate SUBSEP (replicas[c] == 1 ? "sync" : names[m]) SUBSEP replicas[c]
            if (!(key in n)) { line = line " | –"; times = times " –"; continue }
            line = line sprintf(" | %.3f", last[key] / n[key]); times = times sprintf(" %.0f", time[key] / n[key])
            if (n[key] < least) least = n[key]
          }
          print line " |" times " | " least
        }
      }
    }' "$out/runs.txt"
}

# One picture for each rate and number of replicas: test accuracy over iterations (96 images each) and seconds.
pictures() {
  local rate replicas mode logs log runs
  for rate in ${RATES:-1 3}; do
    for replicas in ${REPLICAS:-1 2 4 8}; do
      [ "$replicas" -gt 1 ] || continue
      logs=()
      for mode in one ${MODES:-sync hogwild ssp local-sgd}; do
        runs=()
        for seed in ${SEEDS:-1 2 3}; do
          log=$out/$mode-$replicas-$rate-$seed.log
          [ "$mode" != one ] || log=$out/sync-1-$rate-$seed.log
          [ ! -f "$log" ] || runs+=("$log")
        done
        [ ${#runs[@]} -eq 0 ] || logs+=("${mode/one/one replica}=$(IFS=,; echo "${runs[*]}")")
      done
      "$caffe" plot --outputs=accuracy "${logs[@]}" "$out/accuracy-rate$rate-replicas$replicas.png" 2>>"$out/plot.log"
    done
  done
}

summary | tee "$out/means.md"
pictures
