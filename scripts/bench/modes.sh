#!/usr/bin/env bash
# Accuracy of cifar10_quick on real CIFAR-10 by mode and number of replicas, at the same number of images:
# two ranks under mpirun (one for one replica), 96 images an iteration divided among the replicas.
#
#   usage: scripts/bench/modes.sh [OUTPUT_FOLDER]
#          scripts/bench/modes.sh --docs OUTPUT_FOLDER
#
#   CIFAR10_DIR  folder with data_batch_1.bin, data_batch_2.bin and test_batch.bin  (../shared/data/cifar10)
#   REPLICAS "1 2 4 8"   MODES "sync hogwild ssp local-sgd"   RATES "1 3"   SEEDS "1 2 3"
#   WIRE f32 (bf16, fp16)   ITERATIONS 600   TEST_EVERY 150   CAFFE target/release/caffe
#
# A mode `hogwild:0` is hogwild with --look-ahead=0. A run whose log is there and ended well is not run again, so
# the script goes on where it was stopped; a folder holds runs of one WIRE. At the end it writes into the folder:
#   runs.txt   a line a run: mode, replicas, rate (times the published one), seed, seconds, accuracy at each test
#   means.md   accuracy at the end, mean over the seeds and number of seeds, a table a rate
#   accuracy-rateX-replicasN.png
#
# --docs runs nothing and writes the same of the logs in the folder to where the docs show it: the tables into
# docs/modes.md (between the comments `modes.sh f32` and `/modes.sh f32`), the runs to benches/results/modes.txt, the
# pictures to docs/images/modes-rateX-replicasN.png. With another WIRE only the tables, between the comments of its
# name, and the runs, to benches/results/modes-WIRE.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."
docs=
if [ "${1:-}" = --docs ]; then
  docs=yes
  shift
  [ -d "${1:-}" ] || { echo "modes: --docs needs a folder of runs" >&2; exit 1; }
fi
out=${1:-$(mktemp -d)}
cifar=${CIFAR10_DIR:-../shared/data/cifar10}
caffe=${CAFFE:-$PWD/target/release/caffe}
iterations=${ITERATIONS:-600}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

finished() { grep -q 'Optimization Done' "$1" 2>/dev/null; }

# A run's line, from its log.
line() { # MODE-REPLICAS-RATE-SEED
  local rest=$1 seed rate replicas
  seed=${rest##*-} rest=${rest%-*}
  rate=${rest##*-} rest=${rest%-*}
  replicas=${rest##*-} rest=${rest%-*}
  printf '%s %s %s %s %s %s\n' "$rest" "$replicas" "$rate" "$seed" \
    "$(sed -nE 's/.* iterations in ([0-9.]+) s.*/\1/p' "$out/$1.log")" \
    "$(sed -nE 's/.*accuracy = ([0-9.]+).*/\1/p' "$out/$1.log" | paste -sd' ')"
}

# Writes all finished runs in the folder, in order, to its runs.txt.
gather() {
  local log name
  for log in "$out"/*-*-*-*.log; do
    name=${log##*/}
    if finished "$log"; then line "${name%.log}"; fi
  done | LC_ALL=C sort -k3,3n -k2,2n -k1,1 -k4,4n >"$out/runs.txt"
}

# The runs as tables in Markdown, one a rate: mean accuracy at the end by mode (rows) and replicas (columns).
tables() {
  awk '
    function cell(rate, mode, replicas, key) {
      key = rate SUBSEP (replicas == 1 ? "sync" : mode) SUBSEP replicas
      return key in runs ? sprintf("%.3f (%d)", last[key] / runs[key], runs[key]) : "–"
    }
    {
      key = $3 SUBSEP $1 SUBSEP $2; runs[key]++; last[key] += $NF
      if (!($3 in rates)) { rates[$3]; rate[++rate_count] = $3 }
      if (!($2 in columns)) { columns[$2]; column[++column_count] = $2 }
      modes[$1]
    }
    END {
      rows = split("sync hogwild ssp local-sgd", row, " ")
      for (mode in modes) { known = 0; for (m = 1; m <= rows; m++) known += row[m] == mode; if (!known) row[++rows] = mode }
      for (r = 1; r <= rate_count; r++) {
        printf "%s| rate × %s |", (r == 1 ? "" : "\n"), rate[r]
        for (c = 1; c <= column_count; c++) printf " %s |", column[c] == 1 ? "one replica" : column[c] (c == 2 ? " replicas" : "")
        printf "\n|---|"; for (c = 1; c <= column_count; c++) printf "---|"
        printf "\n"
        for (m = 1; m <= rows; m++) if (row[m] in modes) {
          printf "| `%s` |", row[m]
          for (c = 1; c <= column_count; c++) printf " %s |", cell(rate[r], row[m], column[c])
          printf "\n"
        }
      }
    }' "$out/runs.txt" | tee "$out/means.md"
}

# One picture for each rate and number of replicas, named BEGINNING-rateX-replicasN.png: test accuracy over
# iterations (96 images each) and over seconds, mean over the seeds.
pictures() { # beginning of their names
  local rate replicas mode logs names
  while read -r rate replicas; do
    names=()
    for mode in one sync hogwild ssp local-sgd; do
      logs=$(awk -v folder="$out" -v mode="$mode" -v replicas="$replicas" -v rate="$rate" '
        BEGIN { if (mode == "one") { mode = "sync"; replicas = 1 } }
        $1 == mode && $2 == replicas && $3 == rate { printf "%s%s/%s-%s-%s-%s.log", comma, folder, $1, $2, $3, $4; comma = "," }' "$out/runs.txt")
      [ -z "$logs" ] || names+=("${mode/one/one replica}=$logs")
    done
    "$caffe" plot --outputs=accuracy "${names[@]}" "$1-rate$rate-replicas$replicas.png" 2>>"$out/plot.log"
  done < <(awk '$2 > 1 && !(($3, $2) in seen) { seen[$3, $2]; print $3, $2 }' "$out/runs.txt")
}

# Puts the tables between the comments of this wire in docs/modes.md.
into_docs() {
  local page=docs/modes.md
  if ! grep -qx "<!-- modes.sh $wire -->" $page || ! grep -qx "<!-- /modes.sh $wire -->" $page; then
    echo "modes: $page has no lines \`<!-- modes.sh $wire -->\` and \`<!-- /modes.sh $wire -->\`" >&2
    exit 1
  fi
  awk -v wire="$wire" -v tables="$out/means.md" '
    $0 == "<!-- /modes.sh " wire " -->" { inside = 0 }
    !inside
    $0 == "<!-- modes.sh " wire " -->" { inside = 1; while ((getline text < tables) > 0) print text }' $page >"$out/page.md"
  cat "$out/page.md" >$page
  rm "$out/page.md"
}

# The runs as docs/modes.md links to them.
results() {
  local at log
  at=$(while read -r mode replicas rate seed _; do echo "$out/$mode-$replicas-$rate-$seed.log"; done <"$out/runs.txt" |
    xargs sed -nE 's/.*Iteration ([0-9]+), Testing net.*/\1/p' | sort -nu | paste -sd, | sed 's/,/, /g')
  echo "# scripts/bench/modes.sh: mode, replicas, rate (times the published), seed, seconds, test accuracy after $at iterations"
  [ "$wire" = f32 ] || echo "# between ranks: $wire"
  cat "$out/runs.txt"
}

# A folder without a word of it was made with f32.
made=f32
[ ! -f "$out/wire.txt" ] || made=$(cat "$out/wire.txt")
wire=${WIRE:-$made}

if [ -n "$docs" ]; then
  gather
  [ -s "$out/runs.txt" ] || { echo "modes: no finished run in $out" >&2; exit 1; }
  wire=$made
  tables
  into_docs
  if [ "$wire" = f32 ]; then
    [ -n "${CAFFE:-}" ] || cargo build --release --quiet
    results >benches/results/modes.txt
    pictures docs/images/modes
  else
    results >"benches/results/modes-$wire.txt"
  fi
  exit
fi

if [ "$wire" != "$made" ] && compgen -G "$out/*.log" >/dev/null; then
  echo "modes: $out holds runs with WIRE=$made; use another folder for $wire" >&2
  exit 1
fi
[ -f "$cifar/test_batch.bin" ] || { echo "modes: no CIFAR-10 in $cifar; set CIFAR10_DIR" >&2; exit 1; }
[ -n "${CAFFE:-}" ] || cargo build --release --quiet
mkdir -p "$out"
echo "$wire" >"$out/wire.txt"

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
  ! finished "$out/$name.log" || return 0
  [ "$2" -gt 1 ] || ranks=1
  local flags=(--mode="$mode" --workers=$(($2 / ranks)) --batch=global --wire="$wire")
  [ "$1" = "$mode" ] || flags+=(--look-ahead="${1#*:}")
  local rate
  rate=$(awk -v r="$3" 'BEGIN { print 0.001 * r }')
  sed -e "s|^net:.*|net: \"$out/net.prototxt\"|" -e "s|^max_iter:.*|max_iter: $iterations|" \
      -e "s|^base_lr:.*|base_lr: $rate|" -e "s|^test_interval:.*|test_interval: ${TEST_EVERY:-150}|" \
      -e "s|^snapshot:.*|snapshot: 0\nsnapshot_after_train: false\nrandom_seed: $4\ntest_initialization: false|" \
      examples/cifar10/cifar10_quick_solver.prototxt >"$out/$name.prototxt"
  mpirun -n "$ranks" --oversubscribe --bind-to none "$caffe" train --solver="$out/$name.prototxt" "${flags[@]}" \
    2>"$out/$name.log" || { tail -3 "$out/$name.log" >&2; exit 1; }
  line "$name"
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

gather
tables
pictures "$out/accuracy"
