#!/usr/bin/env bash
# How GoogLeNet would scale over nodes with 56 Gb/s InfiniBand (FDR): the real actors, buckets and exchanges
# around emulated devices (iterations of 310 ms, 53.5 MB of gradients) and emulated links, all in this process,
# beside what `caffe plan` predicts. No data set is needed. About 10 minutes.
#
#   usage: scripts/bench/scaling.sh [OUTPUT_FOLDER]          (benches/results)
#
#   ITERATIONS  of each run                                            (20)
#   DILATE      by what compute and link times are multiplied          (4)
#   TABLES      which: modes straggler nodes published                 (all)
#   CAFFE       the program                                            (target/release/caffe, built first)
#
# Writes scaling.txt (the tables) and scaling.json (all runs). Host load is told for each run: beyond half of the
# cores the figures say more about this host than about the machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-benches/results}
iterations=${ITERATIONS:-20}
dilate=${DILATE:-4}
tables=${TABLES:-modes straggler nodes published}
caffe=${CAFFE:-$PWD/target/release/caffe}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "${CAFFE:-}" ] || cargo build --release --quiet
mkdir -p "$out"

model=examples/googlenet/train_val.prototxt
link=latency=1.5us,bandwidth=56Gb/s
device=emulated:total=310ms
staleness=4
every=10
cat >"$work/solver.prototxt" <<SOLVER
net: "$model"
base_lr: 0.01
lr_policy: "fixed"
max_iter: $iterations
random_seed: 1
SOLVER

declare -A mode_number=([sync]=0 [hogwild]=1 [ssp]=2 [local-sgd]=3)

# One number of a mode's only prediction, from the plan's JSON on standard input.
number() { # mode, field
  awk -v want="${mode_number[$1]}" -v field="\"$2\":" '/"mode":/ { mode++ } $1 == field && mode == want + 1 {
    gsub(/[^0-9.e-]/, "", $2); print $2 }'
}

# The model's efficiency in percent; a dilated host costs next to nothing, so memory is taken as free.
predicted() { # mode, nodes, workers, device
  "$caffe" plan -model "$model" --device="$4" --link="$link" --workers="$3" --nodes="$2" --memory=1000000GB/s \
    --staleness=$staleness --exchange-every=$every --json 2>/dev/null | number "$1" efficiency |
    awk '{ printf "%.1f", 100 * $1 }'
}

runs=()
measure() { # table, mode, nodes, workers, device settings
  local table=$1 mode=$2 nodes=$3 workers=$4 settings=$5
  local log=$work/$table-$mode-$nodes-$workers$settings.log
  "$caffe" train --solver="$work/solver.prototxt" --mode="$mode" --staleness=$staleness --exchange-every=$every \
    --nodes="$nodes" --workers="$workers" --device="$device$settings" --link="$link" --dilate="$dilate" 2>"$log" ||
    { tail -3 "$log" >&2; exit 1; }
  local speed efficiency iteration exposed busy host rounds prediction=-
  speed=$(sed -nE 's/.*speed-up ([0-9.]+) of.*/\1/p' "$log")
  efficiency=$(sed -nE 's/.*speed-up .*\(([0-9.]+) %\).*/\1/p' "$log")
  iteration=$(sed -nE 's/.*an iteration takes ([0-9.]+) ms.*/\1/p' "$log")
  exposed=$(sed -nE 's/.* ([0-9.]+) ms exposed.*/\1/p' "$log")
  busy=$(sed -nE "s/.*work took ([0-9.]+) %.*/\1/p" "$log")
  host=$(sed -nE 's/.*host: ([0-9.]+) ms.*/\1/p' "$log")
  rounds=$(sed -nE 's/.* ([0-9.]+) rounds between.*/\1/p' "$log")
  [[ $settings == *slow* ]] || prediction=$(predicted "$mode" "$nodes" "$workers" "$device$settings")
  printf '%-10s %5s x %-3s %-18s %7s %7s %8s %9s %8s %8s %7s %7s\n' "$mode" "$nodes" "$workers" "${settings#,}" \
    "$speed" "$efficiency" "$prediction" "$iteration" "$exposed" "$host" "$rounds" "$busy" | tee -a "$out/scaling.txt"
  runs+=("{\"table\": \"$table\", \"mode\": \"$mode\", \"nodes\": $nodes, \"workers\": $workers, \
\"settings\": \"${settings#,}\", \"speedup\": $speed, \"efficiency_percent\": $efficiency, \
\"predicted_percent\": \"$prediction\", \"iteration_ms\": $iteration, \"exposed_ms\": $exposed, \
\"host_ms\": $host, \"rounds\": $rounds, \"host_busy_percent\": $busy}")
}

heading() {
  printf '\n%s\n%-10s %5s x %-3s %-18s %7s %7s %8s %9s %8s %8s %7s %7s\n' "$1" mode nodes dev settings \
    speedup eff% model% iter_ms exposed host_ms rounds busy% | tee -a "$out/scaling.txt"
}

# Caffe-MPI 2.0 on 4 nodes x 4 P40 at 56 Gb/s, beside the model for a device of half a P40's peak rates: with the
# exchange beside backward, and after it (an average in every iteration, local-sgd with k = 1, costs the same).
published() {
  printf '\n%s\n%-10s %9s %9s %9s %12s %12s\n' "Published: Caffe-MPI 2.0, 4 nodes x 4 P40; the model beside" net \
    speedup compute_ms gradient_MB overlapped not_overlapped | tee -a "$out/scaling.txt"
  local net speedup plan
  while read -r net speedup; do
    plan=$("$caffe" plan -model "examples/$net/train_val.prototxt" --device=emulated --link="$link" --workers=4 \
      --nodes=4 --memory=1000000GB/s --exchange-every=1 --json 2>/dev/null)
    printf '%-10s %9s %9.1f %9.1f %12.2f %12.2f\n' "$net" "$speedup" \
      "$(sed -nE 's/.*"compute_ms": ([0-9.]+).*/\1/p' <<<"$plan")" \
      "$(sed -nE 's/.*"gradient_mb": ([0-9.]+).*/\1/p' <<<"$plan")" \
      "$(number sync speedup <<<"$plan")" "$(number local-sgd speedup <<<"$plan")" | tee -a "$out/scaling.txt"
  done <<<"alexnet 14.65
googlenet 14.25
resnet50 15.34"
}

processor=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)
{
  echo "GoogLeNet on emulated devices: $device, $link; $iterations iterations, dilated $dilate times"
  echo "host: $(nproc) cores, ${processor:-$(uname -m)}, load before $(cut -d' ' -f1 /proc/loadavg)"
  echo "host_ms: processor time of this host for one iteration of all replicas, undilated"
} | tee "$out/scaling.txt"

for table in $tables; do
  case $table in
    modes)
      heading "4 nodes x 4 devices, without and with jitter of 2 % of an iteration"
      for jitter in "" ,jitter=2%; do
        for mode in sync hogwild ssp local-sgd; do measure modes "$mode" 4 4 "$jitter"; done
      done ;;
    straggler)
      heading "4 nodes x 4 devices, one replica half as fast"
      for mode in sync hogwild ssp local-sgd; do measure straggler "$mode" 4 4 ,slow=5:2; done ;;
    nodes)
      heading "nodes with one device each"
      for nodes in 2 4 8 16; do measure nodes sync "$nodes" 1 ""; done
      measure nodes hogwild 16 1 "" ;;
    published) published ;;
    *) echo "scaling: no table $table" >&2; exit 1 ;;
  esac
done

{
  printf '{"host": {"cores": %s, "processor": "%s"}, "iterations": %s, "dilation": %s, "link": "%s", "device": "%s",\n"runs": [\n' \
    "$(nproc)" "$processor" "$iterations" "$dilate" "$link" "$device"
  (IFS=$'\n'; printf '%s\n' "${runs[*]}" | sed '$!s/$/,/')
  printf ']}\n'
} >"$out/scaling.json"
