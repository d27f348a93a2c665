#!/usr/bin/env bash
# What a GPU machine makes of this program: devices and libraries, tests on the device, training, speed beside
# PyTorch. Runs inside of a bundle (scripts/gpu-bundle.sh), within ten minutes; a step that fails or takes too
# long is a line of the table, and the next one follows.
#
#   usage: scripts/gpu-check.sh [--tests-only | --speed-only]
#
#   CAFFE_CUDA=simulated  with --tests-only: the tests on simulated CUDA libraries (needs c++), for machines
#                         without a GPU
#   PYTHON=…              a Python with PyTorch and NVIDIA's packages (default python3)
#   OUT=…                 folder for table.txt and log.txt (default: results in the bundle)
#   SECONDS_IN_ALL=…      time for everything (default 570)
#   NETS=…, PRECISIONS=…  default "alexnet:256 googlenet:128 resnet50:128" and "f32 tf32 bf16"
#
# Exit code 0: every step went well; 1: some did not; 2: nothing could be run.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=${OUT:-$root/results}
python=${PYTHON:-python3}
total=${SECONDS_IN_ALL:-570}
nets=${NETS:-alexnet:256 googlenet:128 resnet50:128}
precisions=${PRECISIONS:-f32 tf32 bf16}
layouts="nchw nhwc"
begun=$SECONDS
failed=0

case "${1:-}" in
  "") parts="tests train speed" ;;
  --tests-only) parts="tests" ;;
  --speed-only) parts="speed" ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

refuse() { echo "gpu-check: $*" >&2; exit 2; }

left() { echo $((total - (SECONDS - begun))); }

# step NAME SECONDS COMMAND…: runs it, its output to the log NAME; one line tells how it went.
step() {
  local name=$1 limit=$2 code at=$SECONDS
  shift 2
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -le 0 ]; then
    note "$name" "not run: no time left of $total s"
    failed=1
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$logs/$name" 2>&1
  code=$?
  case $code in
    0) note "$name" "ok, $((SECONDS - at)) s" ;;
    124 | 137) note "$name" "FAILED: ran past $limit s" ;;
    *) note "$name" "FAILED ($code): $(grep -v '^$' "$logs/$name" | grep -iE '^E|error|panicked|failed|no CUDA' | tail -1 | cut -c1-200)" ;;
  esac
  [ $code -eq 0 ] || failed=1
  return $code
}

note() { printf '%-28s %s\n' "$1" "$2" | tee -a "$logs/steps"; }

# A claim about a step that ran: holds NAME CONDITION TEXT.
holds() {
  if [ "$2" = 1 ]; then note "$1" "ok: $3"; else note "$1" "FAILED: $3"; failed=1; fi
}

#### what must be there

prepare() {
  [ -x bin/caffe ] || refuse "no bin/caffe in $root: this runs inside of a bundle, which scripts/gpu-bundle.sh makes"
  local needs has
  needs=$(awk '$1 == "glibc" { print $2 }' BUNDLE)
  has=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{ print $2 }')
  if [ -n "$has" ] && [ "$(printf '%s\n' "$needs" "$has" | sort -V | head -1)" != "$needs" ]; then
    refuse "the programs need glibc $needs or newer, this system has $has: make the bundle on an older one"
  fi
  logs=$(mktemp -d)
  trap 'finish' EXIT
  mkdir -p "$out" "$logs/tmp"
  # The bundle's libraries are for its own programs; Python keeps to its own.
  own=(env "LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "TMPDIR=$logs/tmp"
    "CAFFE_REPOSITORY=$root" "CAFFE_SHARED=$root/shared" "CAFFE_CACHE=$logs/tmp/kernels" "RUST_BACKTRACE=0"
    "CAFFE_CUDA_LIBS=${CAFFE_CUDA_LIBS:-$(python_libraries)}")
  caffe=("${own[@]}" "$root/bin/caffe")
  device=${CAFFE_CUDA:-device}
}

python_libraries() { # of the Python that is to be used, which need not be the first in PATH
  "$python" - 2>/dev/null <<'PY'
import glob
import nvidia
print(":".join(sorted(folder for base in nvidia.__path__ for folder in glob.glob(base + "/*/lib"))))
PY
}

find_device() {
  case "$device" in
    simulated)
      [ "$parts" = tests ] || refuse "CAFFE_CUDA=simulated is for --tests-only: training and speed need a GPU"
      ;;
    device)
      "${caffe[@]}" device_query -gpu 0 >"$logs/device" 2>&1 ||
        refuse "no CUDA device: $(tail -1 "$logs/device" | sed 's/.*\] //'); CAFFE_CUDA=simulated $0 --tests-only runs the tests without one"
      ;;
    *) refuse "CAFFE_CUDA is device or simulated, not $device" ;;
  esac
}

finish() {
  [ -f "$logs/steps" ] && {
    echo
    cat BUNDLE
    cat "$logs/steps"
    [ ! -s "$logs/table" ] || { echo; cat "$logs/table"; }
  } >"$out/table.txt"
  (cd "$logs" && for log in $(ls -tr); do
    [ -f "$log" ] && { echo "#### $log"; cat "$log"; }
  done) >"$out/log.txt"
  rm -rf "$logs"
}

#### tests

tests() {
  local name
  export CAFFE_CUDA=$device
  step conformance 150 "${own[@]}" bin/tests/conformance on_cuda --nocapture --test-threads=1
  grep -E '^[0-9]+ cases|^not run' "$logs/conformance" | while read -r line; do note "" "$line"; done
  step gradients 150 "${own[@]}" bin/tests/gradients cuda --nocapture --test-threads=1
  step kernels 60 "${own[@]}" bin/tests/kernels --nocapture
  step raw_records 60 "${own[@]}" bin/tests/raw_records --nocapture --test-threads=1
  step device_graph 60 "${own[@]}" bin/tests/device_graph --nocapture --test-threads=1
  step device_order 60 "${own[@]}" bin/tests/device_order --nocapture --test-threads=1
  for name in conformance gradients kernels raw_records device_graph device_order; do
    note "" "$name: $(grep -E '^test result' "$logs/$name" || echo 'no result')"
    note "" "$name: $(grep -c 'skipped: ' "$logs/$name") lines say skipped; $(grep -oE 'on CUDA device .*' "$logs/$name" | sort | uniq -c | xargs)"
  done
  unset CAFFE_CUDA
}

#### training

# cifar NAME ITERATIONS FLAGS…: cifar10_quick on the small database, tested before and after.
cifar() {
  local name=$1 iterations=$2
  shift 2
  sed "s#examples/cifar10/\(cifar10_[a-z]*_leveldb\|mean.binaryproto\)#$root/data/\1#" \
    examples/cifar10/cifar10_quick_train_test.prototxt >"$logs/tmp/cifar.prototxt"
  cat >"$logs/tmp/cifar_solver.prototxt" <<TXT
net: "$logs/tmp/cifar.prototxt"
base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.004
test_iter: 10 test_interval: $iterations display: 20 max_iter: $iterations random_seed: 1
snapshot_prefix: "$logs/tmp/$name"
TXT
  step "$name" 60 "${caffe[@]}" train --solver="$logs/tmp/cifar_solver.prototxt" "$@"
}

losses() { grep -oE 'Test net output #[0-9]+: loss = [0-9.e+-]+' "$logs/$1" | awk '{ print $NF }'; }

learns() { # the step's name
  local first last
  first=$(losses "$1" | head -1) last=$(losses "$1" | tail -1)
  holds "  it learns" "$(awk "BEGIN { print ($last < 0.95 * $first) }")" "test loss $first, after 100 iterations $last"
}

# Two actors in sync with half of the batch each are one with the whole batch. After two iterations: rounding
# grows tenfold and more with each one that follows, on a CPU too.
sync_is_one() {
  local name off
  cifar train-one 2 --gpu=0 --mode=sync --batch=global && cifar train-two 2 --gpu=0,0 --mode=sync --batch=global || return
  for name in one two; do
    "${caffe[@]}" export -weights "$logs/tmp/train-${name}_iter_2.caffemodel" "$logs/tmp/$name.safetensors" >"$logs/export" 2>&1
  done
  off=$("$python" scripts/gpu/compare.py "$logs/tmp/one.safetensors" "$logs/tmp/two.safetensors" 2>>"$logs/export")
  holds "  two actors are one" "$(awk -v off="${off##* }" 'BEGIN { print (off != "" && off + 0 < 1e-4) }')" \
    "weights after two iterations differ most in ${off:-nothing that could be compared} of the array's largest"
}

train() {
  cifar train 100 --gpu=0 && learns train
  sync_is_one
  cifar train-sync 100 --gpu=0,0 --mode=sync --batch=global && learns train-sync
  cifar train-hogwild 100 --gpu=0,0 --mode=hogwild --batch=global && learns train-hogwild
}

#### speed

# The net with its data layers replaced by what stands in the third argument.
with_data() { # net, batch, layer, file
  {
    echo "$3"
    awk '/^layer \{/ { block = ""; inside = 1 }
      inside { block = block $0 "\n"; if ($0 == "}") { inside = 0; if (block !~ /type: "Data"/) printf "%s", block } next }
      { print }' "examples/$1/train_val.prototxt"
  } >"$4"
}

ours() { # net, batch, precision
  local net=$1 batch=$2 flags=(--gpu=0) edge=224 data layout where=$logs/tmp
  [ "$3" = f32 ] || flags+=("--precision=$3")
  [ "$net" != alexnet ] || edge=227
  for source in photos photos_jpg; do
    data="layer { name: \"data\" type: \"Data\" top: \"data\" top: \"label\" include { phase: TRAIN }
      transform_param { crop_size: $edge mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }
      data_param { source: \"$root/data/${source}_leveldb\" batch_size: $batch backend: LEVELDB } }"
    with_data "$net" "$batch" "$data" "$where/$source.prototxt"
  done
  # Constant fillers fill once: the batch stays on the device.
  data="layer { name: \"data\" type: \"DummyData\" top: \"data\" top: \"label\" include { phase: TRAIN }
    dummy_data_param { shape { dim: $batch dim: 3 dim: $edge dim: $edge } shape { dim: $batch }
      data_filler { type: \"constant\" value: 1 } data_filler { type: \"constant\" value: 1 } } }"
  with_data "$net" "$batch" "$data" "$where/resident.prototxt"
  for layout in $layouts; do
    step "time-$net-$3-$layout" 40 "${caffe[@]}" time -model "$where/photos.prototxt" -iterations 10 "${flags[@]}" \
      "--cuda-layout=$layout"
  done
  for source in resident photos_jpg; do
    # Decoding costs the same in every precision: it is shown for the last.
    [ "$source" = resident ] || [ "$3" = "${precisions##* }" ] || continue
    cat >"$where/solver.prototxt" <<TXT
net: "$where/$source.prototxt"
base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005
display: 10 max_iter: 31 random_seed: 1 snapshot_after_train: false
TXT
    step "step-$source-$net-$3" 40 "${caffe[@]}" train --solver="$where/solver.prototxt" "${flags[@]}"
  done
}

peer() { # step's name, seconds, net, batch, precisions, flags…
  local name=$1 limit=$2 net=$3 batch=$4 precision=$5
  shift 5
  step "$name" "$limit" "$python" peer/peer_torch.py "$net" --batch "$batch" --device cuda --precision "$precision" "$@"
}

speed() {
  local net precision runs=0
  for net in $nets; do
    for precision in $precisions; do ours "${net%:*}" "${net#*:}" "$precision"; done
  done
  if [ ! -f peer/peer_torch.py ] || ! "$python" -c 'import torch' 2>/dev/null; then
    note "peer" "not run: no peer/peer_torch.py in the bundle, or no torch in $python (PYTHON names another)"
    failed=1
    return
  fi
  step rates 40 "$python" scripts/gpu/rates.py
  for net in $nets; do
    peer "peer-${net%:*}" 60 "${net%:*}" "${net#*:}" "${precisions// /,}"
  done
  # Compiling takes most of the time there is: each gets its share of what is left. What it printed before counts.
  for net in $nets; do for precision in $precisions; do runs=$((runs + 1)); done; done
  for precision in $(printf '%s\n' $precisions | tac); do
    for net in $nets; do
      peer "compiled-${net%:*}-$precision" $(($(left) / runs)) "${net%:*}" "${net#*:}" "$precision" --compile
      runs=$((runs - 1))
    done
  done
}

# Milliseconds of a step: of PyTorch the best line that was printed, of ours the last display's.
torch_ms() { # log, precision
  sed -n "s/.*\"precision\": \"$2\".*\"step_ms\": \([0-9.]*\).*/\1/p" "$logs/$1" 2>/dev/null | sort -g | head -1
}
passes_ms() { # net-precision-layout
  sed -n 's/.*Average Forward-Backward: \([0-9.]*\) ms.*/\1/p' "$logs/time-$1" 2>/dev/null
}
train_ms() {
  grep -oE '\([0-9.e+-]+ iter/s' "$logs/$1" 2>/dev/null | tail -1 | awk '{ v = substr($1, 2); if (v > 0) printf "%.2f", 1e3 / v }'
}

table() {
  local net precision row best
  row='%-10s %-5s %8s %8s %9s %9s %9s %9s %9s %9s %6s %7s %9s\n'
  {
    echo "milliseconds of a training step; ratio: PyTorch's best by ours. floor: operations by the measured rate of"
    echo "products, and bytes (f32; half of them for bf16) by the measured rate of copies. nchw, nhwc: caffe time, without"
    echo "the update, in either layout. step: caffe train on resident data, in the layout of --cuda-layout=auto. decoded: the"
    echo "same from LevelDB with JPEG. MB: what was taken of the device at the end of that, and what had been forecast (with"
    echo "an allowance for the libraries)."
    # shellcheck disable=SC2059
    printf "$row" net prec. matrix memory nchw nhwc step decoded PyTorch compiled ratio MB forecast
    for net in $nets; do
      net=${net%:*}
      for precision in $precisions; do
        # shellcheck disable=SC2046,SC2059
        printf "$row" "$net" "$precision" $(floor "$net" "$precision") \
          "$(passes_ms "$net-$precision-nchw" | or_dash)" "$(passes_ms "$net-$precision-nhwc" | or_dash)" \
          "$(train_ms "step-resident-$net-$precision" | or_dash)" \
          "$(train_ms "step-photos_jpg-$net-$precision" | or_dash)" \
          "$(torch_ms "peer-$net" "$precision" | or_dash)" \
          "$(torch_ms "compiled-$net-$precision" "$precision" | or_dash)" \
          "$(ratio "$net" "$precision")" \
          $(memory "step-resident-$net-$precision")
      done
    done
    [ ! -s "$logs/rates" ] || { echo; echo "rates (TFLOP/s, GB/s): $(grep -E '^(matrix|memory)' "$logs/rates" | paste -sd' ')"; }
  } >"$logs/table"
  echo
  cat "$logs/table"
}

or_dash() { awk 'NF { print; found = 1 } END { if (!found) print "-" }'; }

ratio() { # net, precision
  local best step
  best=$( (torch_ms "peer-$1" "$2"; torch_ms "compiled-$1-$2" "$2") | sort -g | head -1)
  step=$(train_ms "step-resident-$1-$2")
  if [ -n "$best" ] && [ -n "$step" ]; then awk "BEGIN { printf \"%.2f\", $best / $step }"; else echo -; fi
}

# Megabytes: taken, forecast.
memory() { # log
  sed -n 's/.*device memory: \([0-9]*\) MB taken, \([0-9]*\) MB forecast.*/\1 \2/p' "$logs/$1" 2>/dev/null | grep . || echo - -
}

# `caffe time` prints each layer's time, and its rates by that time: their product is the layer's work.
floor() { # net, precision
  local log
  for log in "$logs/time-$1-$2" "$logs/time-$1-f32"; do
    [ -s "$log" ] && grep -q GFLOP/s "$log" && break
  done
  [ -s "$log" ] && [ -s "$logs/rates" ] || { echo - -; return; }
  awk -v precision="$2" '
    FILENAME ~ /rates$/ { if ($1 == "matrix" && $2 == precision) matrix = $3; if ($1 == "memory") memory = $2; next }
    $8 == "ms." { ms[$5 $6] = $7 }
    $8 == "GFLOP/s," { flops += $7 * 1e6 * ms[$5 $6]; bytes += $9 * 1e6 * ms[$5 $6] }
    END {
      if (precision == "bf16") bytes /= 2
      printf (matrix ? "%.2f " : "- "), flops / (matrix ? matrix : 1) / 1e9
      printf (memory ? "%.2f\n" : "-\n"), bytes / (memory ? memory : 1) / 1e6
    }' "$logs/rates" "$log"
}

prepare
find_device
if [ "$device" = device ]; then
  grep -E '^(Name|CUDA driver|Total global memory)|: *CUDA' "$logs/device" | head -4
  step device_query 20 "${caffe[@]}" device_query
  step doctor 40 "${caffe[@]}" doctor
fi
for part in $parts; do "$part"; done
[[ $parts != *speed* ]] || table
echo
if [ $failed -eq 0 ]; then echo "all went well"; else echo "some steps did not go well"; fi
echo "the table and all output: $out/table.txt, $out/log.txt"
exit $failed
