#!/usr/bin/env bash
# The fault table against the real program: what happens when ranks die, stop, err, differ or meet NaN
# in every phase, and `kill -9` at random moments with `--resume=auto` after each. Prints a table;
# exits with 1 where something is NOT as docs/faults.md says.
#
#   usage: scripts/faults.sh [all|table|kills]     KILLS=200  RANKS=2  CAFFE=target/release/caffe
set -uo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
kills=${KILLS:-200}
ranks=${RANKS:-2}
caffe=${CAFFE:-$PWD/target/release/caffe}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ -x "$caffe" ] || { echo "no $caffe; cargo build --release first" >&2; exit 1; }
command -v mpirun >/dev/null || { echo "no mpirun" >&2; exit 1; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
bad=0

"$caffe" generate_data "$dir" --train=400 --test=100 2>/dev/null || exit 1

net() { # FILE MORE
  cat >"$1" <<NET
layer { name: 'data' type: 'Data' top: 'data' top: 'label' include { phase: TRAIN }
  transform_param { scale: 0.0078125 mirror: true }
  data_param { source: '$dir/cifar10_train_leveldb' batch_size: 8 backend: LEVELDB } }
layer { name: 'data' type: 'Data' top: 'data' top: 'label' include { phase: TEST }
  transform_param { scale: 0.0078125 }
  data_param { source: '$dir/cifar10_test_leveldb' batch_size: 25 backend: LEVELDB } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: 'xavier' } } }
layer { name: 'bn' type: 'BatchNorm' bottom: 'conv' top: 'conv' }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
NET
}

solver() { # FILE MAX_ITER PREFIX MORE
  echo "net: '$dir/net.prototxt' base_lr: 0.01 momentum: 0.9 lr_policy: 'fixed' random_seed: 3 max_iter: $2
    display: 50 test_iter: 4 test_interval: 20 snapshot: 5 snapshot_prefix: '$3' $4" >"$1"
}

train() { # SOLVER FLAGS...
  local solver=$1
  shift
  exec mpirun -n "$ranks" --oversubscribe --bind-to none "$caffe" train --solver="$solver" --threads=1 \
    --mode=sync --blackbox="$dir/boxes" "$@"
}

row() { printf '%-34s %-10s %6s  %-4s %s\n' "$@"; }

verdict() { # NAME PHASE SECONDS PROBLEM SEEN
  [ -z "$4" ] && row "$1" "$2" "$3" ok "$5" && return
  bad=1
  row "$1" "$2" "$3" NOT "$4: $5"
}

# The line that says why the job ended: a fault's, an error's, or mpirun's own.
reason() {
  grep -aE '^E[0-9]{4} |aborted \(out of memory|on signal|has been silent' "$1" | head -1 | cut -c1-150
}

# The newest snapshot loads: a run that resumes from it and is already at its end does nothing else.
snapshot_is_whole() { # PREFIX
  solver "$dir/check.prototxt" 1 "$1" "snapshot_after_train: false"
  "$caffe" train --solver="$dir/check.prototxt" --threads=1 --resume=auto >"$dir/check.log" 2>&1 &&
    grep -q 'goes on from' "$dir/check.log"
}

# A fault in a phase: all ranks end, non-zero, in less than 10 s after it, in one voice.
fault() { # NAME PHASE INJECTION WANTED FLAGS...
  local name=$1 phase=$2 injection=$3 wanted=$4 problem="" begin seconds
  shift 4
  rm -rf "$dir"/run && mkdir -p "$dir/run"
  solver "$dir/run.prototxt" 60 "$dir/run/snap" ""
  begin=$(date +%s.%N)
  CAFFE_FAULT=$injection timeout 60 bash -c "$(declare -f train); ranks=$ranks caffe=$caffe dir=$dir
    train \"\$@\"" _ "$dir/run.prototxt" "$@" >"$dir/log" 2>&1
  local code=$?
  seconds=$(echo "$(date +%s.%N) - $begin" | bc | cut -c1-5)
  [ $code -ne 0 ] || problem="ended with 0"
  [ $code -ne 124 ] || problem="hung"
  [ "$(echo "$seconds < 20" | bc)" = 1 ] || problem="took long"
  grep -aqE "$wanted" "$dir/log" || problem="nobody says $wanted"
  if [ "$phase" != start ] && [ -z "$problem" ]; then
    ls "$dir"/run/*.resume >/dev/null 2>&1 && { snapshot_is_whole "$dir/run/snap" || problem="snapshot"; }
  fi
  verdict "$name" "$phase" "$seconds" "$problem" "$(reason "$dir/log")"
}

# Ranks that were given different things, each in a folder of its own with the same names in it.
differs() { # NAME WANTED COMMAND-FOR-RANK-1 FLAGS...
  local name=$1 wanted=$2 command=$3 problem="" begin seconds rank folder
  shift 3
  for rank in $(seq 0 $((ranks - 1))); do
    folder=$dir/rank$rank
    rm -rf "$folder" && mkdir -p "$folder"
    ln -s "$dir"/cifar10_*_leveldb "$folder"
    sed "s|$dir/||" "$dir/net.prototxt" >"$folder/net.prototxt"
    solver "$folder/run.prototxt" 20 snap "snapshot_after_train: true"
    sed -i "s|$dir/||" "$folder/run.prototxt"
  done
  cat >"$dir/wrapper.sh" <<WRAP
#!/bin/bash
rank=\${OMPI_COMM_WORLD_RANK:-\$PMI_RANK} caffe=$caffe more="$*"
cd $dir/rank\$rank
if [ \$rank = 1 ]; then $command; fi
exec \$caffe train --solver=run.prototxt --threads=1 --mode=sync --blackbox=$dir/boxes \$more
WRAP
  chmod +x "$dir/wrapper.sh"
  begin=$(date +%s.%N)
  timeout 60 mpirun -n "$ranks" --oversubscribe --bind-to none "$dir/wrapper.sh" >"$dir/log" 2>&1
  local code=$?
  seconds=$(echo "$(date +%s.%N) - $begin" | bc | cut -c1-5)
  [ $code -ne 0 ] && [ $code -ne 124 ] || problem="ended with $code"
  grep -aqE "rank 1 .*differs from rank 0.* in $wanted" "$dir/log" || problem="nobody says $wanted"
  verdict "$name" start "$seconds" "$problem" "$(reason "$dir/log")"
}

# A rate that no weights survive.
diverges() { # NAME WANTED FLAGS...
  local name=$1 wanted=$2 problem="" begin seconds code
  shift 2
  rm -rf "$dir"/run && mkdir -p "$dir/run"
  solver "$dir/run.prototxt" 400 "$dir/run/snap" ""
  # With decay every step multiplies the weights by the rate.
  sed -i "s/base_lr: 0.01/base_lr: 1e30 weight_decay: 1/" "$dir/run.prototxt"
  begin=$(date +%s.%N)
  (train "$dir/run.prototxt" "$@" >"$dir/log" 2>&1)
  code=$?
  seconds=$(echo "$(date +%s.%N) - $begin" | bc | cut -c1-5)
  [ $code -ne 0 ] || problem="ended with 0"
  grep -aqE "$wanted" "$dir/log" || problem="nobody says $wanted"
  verdict "$name" train "$seconds" "$problem" "$(grep -aE "$wanted" "$dir/log" | head -1 | cut -c1-150)"
}

# A signal while training: SIGNAL to `mpirun` or to a rank; what the log then says.
signalled() { # NAME SIGNAL TARGET WANTED CODE FLAGS...
  local name=$1 signal=$2 target=$3 wanted=$4 expected=$5 problem="" begin seconds pid code
  shift 5
  rm -rf "$dir"/run && mkdir -p "$dir/run"
  solver "$dir/run.prototxt" 100000 "$dir/run/snap" "snapshot_after_train: true"
  sed -i 's/snapshot: 5/snapshot: 200/' "$dir/run.prototxt"
  # Not the last run's words.
  : >"$dir/log"
  (train "$dir/run.prototxt" "$@" >"$dir/log" 2>&1) &
  pid=$!
  wait_for 'Iteration 250 |Iteration 300 '
  begin=$(date +%s.%N)
  if [ "$target" = mpirun ]; then kill -s "$signal" "$pid"; else
    kill -s "$signal" "$(pgrep -P "$pid" -x "$(basename "$caffe")" | sed -n "$((target + 1))p")"
  fi
  if [ "$expected" = goes-on ]; then
    for _ in $(seq 100); do grep -aqE "$wanted" "$dir/log" && break; sleep 0.1; done
    kill -s TERM "$pid"
  fi
  wait "$pid"
  code=$?
  seconds=$(echo "$(date +%s.%N) - $begin" | bc | cut -c1-5)
  case $expected in
    0) [ $code -eq 0 ] || problem="ended with $code" ;;
    *) [ $code -ne 0 ] || problem="ended with 0" ;;
  esac
  grep -aqE "$wanted" "$dir/log" || problem="nobody says $wanted"
  snapshot_is_whole "$dir/run/snap" || problem="snapshot"
  ls "$dir"/run/.*.tmp >/dev/null 2>&1 && [ "$expected" = 0 ] && problem="temporary files"
  verdict "$name" train "$seconds" "$problem" "$(grep -aE "$wanted" "$dir/log" | head -1 | cut -c1-150)"
}

wait_for() { for _ in $(seq 300); do grep -aqE "$1" "$dir/log" 2>/dev/null && return; sleep 0.1; done; }

table() {
  net "$dir/net.prototxt"
  row fault phase "s" "" "what was seen"
  local seed
  for seed in 3 4; do
    solver "$dir/run.prototxt" 1 "$dir/seed$seed" ""
    sed -i "s/random_seed: 3/random_seed: $seed/" "$dir/run.prototxt"
    "$caffe" train --solver="$dir/run.prototxt" --threads=1 --blackbox="$dir/boxes" >/dev/null 2>&1
  done
  mv "$dir/seed3_iter_1.caffemodel" "$dir/run.caffemodel"
  mv "$dir/seed4_iter_1.caffemodel" "$dir/check.caffemodel"
  local last=$((ranks - 1)) phase
  for phase in start read train test drain snapshot write verify; do
    # Snapshots are rank 0's.
    case $phase in snapshot | write) last=0 ;; *) last=$((ranks - 1)) ;; esac
    local at="phase=$phase,rank=$last"
    [ $phase = start ] || [ $phase = verify ] || at="$at,iter=10"
    fault "panic" $phase "panic@$at" "rank $last \(host .*injected panic"
    fault "error" $phase "error@$at" "rank $last \(host .*injected error"
    fault "out of memory" $phase "oom@$at" "rank $last \(host .*aborted"
    fault "SIGKILL" $phase "kill@$at" "on signal 9|rank $last"
  done
  fault "SIGSTOP (--stall-timeout=3)" train "stop@phase=train,rank=$((ranks - 1)),iter=10" \
    "has not been heard for" --stall-warning=1 --stall-timeout=3

  differs "another solver" "the solver" "sed -i s/0.9/0.8/ run.prototxt"
  differs "another net" "the train net" "sed -i s/num_output:.8/num_output:\ 9/ net.prototxt"
  differs "other weights" "the weights or snapshot" "more=--weights=$dir/check.caffemodel" \
    --weights="$dir/run.caffemodel"
  differs "other data" "the train data" \
    "rm cifar10_train_leveldb; ln -s $dir/cifar10_test_leveldb cifar10_train_leveldb"
  differs "another program" "the program" "cp $caffe $dir/caffe2; echo >>$dir/caffe2; caffe=$dir/caffe2"

  diverges "loss or gradient is NaN, stop" "rank . \(host .*is (NaN|inf|-inf); .*keys"
  diverges "loss or gradient is NaN, skip" "50 updates in succession had to be dropped" --on-nan=skip
  diverges "loss or gradient is NaN, rollback" "went back to a snapshot 2 time|no whole snapshot" --on-nan=rollback:2

  signalled "SIGINT to a rank" INT 1 "Optimization stopped early" 0
  signalled "SIGHUP to a rank" HUP 1 "Snapshotting to .*iter_(2[0-9]*[1-9]|3[0-9]*[1-9])" goes-on
  signalled "SIGUSR1 to mpirun" USR1 mpirun "Snapshotting to .*iter_(2[0-9]*[1-9]|3[0-9]*[1-9])" goes-on
  signalled "SIGUSR1 to mpirun, stop" USR1 mpirun "Optimization stopped early" 0 --sigusr1_effect=stop
  signalled "SIGTERM to mpirun" TERM mpirun "SIGTERM: ending at once; the newest snapshot" x
  signalled "SIGINT to mpirun" INT mpirun "SIGTERM: ending at once; the newest snapshot|stopped early" x
}

# kill -9 of a random rank at random moments; after each the job goes on with --resume=auto. When it
# reaches its end its weights must be those of a job that nobody disturbed.
murder() {
  net "$dir/net.prototxt"
  mkdir -p "$dir/whole" "$dir/killed"
  local iters=${ITERS:-1000} begin killed=0 ended=0 pid victim resumed=0 within=0
  begin=$(date +%s)
  solver "$dir/whole.prototxt" "$iters" "$dir/whole/snap" ""
  (train "$dir/whole.prototxt" >"$dir/log" 2>&1) || { cat "$dir/log"; exit 1; }
  solver "$dir/killed.prototxt" "$iters" "$dir/killed/snap" ""
  while [ $killed -lt "$kills" ]; do
    : >"$dir/log"
    (train "$dir/killed.prototxt" --resume=auto --keep-last=2 >"$dir/log" 2>&1) &
    pid=$!
    # One in eight dies while it starts, the others while they train.
    if [ $((RANDOM % 8)) -ne 0 ]; then
      for _ in $(seq 1000); do grep -aq '] Solving' "$dir/log" && break; sleep 0.01; done
    fi
    sleep "$(awk -v r=$RANDOM 'BEGIN { printf "%.3f", 0.7 * r / 32768 }')"
    victim=$(pgrep -P "$pid" -x "$(basename "$caffe")" | shuf -n 1)
    if [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null; then
      killed=$((killed + 1))
      ls "$dir"/killed/.*.tmp >/dev/null 2>&1 && within=$((within + 1))
    fi
    wait "$pid" 2>/dev/null
    grep -aq 'goes on from' "$dir/log" && resumed=$((resumed + 1))
    grep -aqE '^E[0-9]{4} .*(damaged|cannot)' "$dir/log" && { bad=1; grep -aE '^E' "$dir/log"; }
    if [ -e "$dir/killed/snap_iter_$iters.resume" ]; then compare; fi
  done
  (train "$dir/killed.prototxt" --resume=auto --keep-last=2 >"$dir/log" 2>&1) || { bad=1; tail -3 "$dir/log"; }
  compare
  local problem=""
  [ $bad -eq 0 ] || problem="weights or snapshots"
  verdict "kill -9, $killed times" any "$(($(date +%s) - begin))" "$problem" \
    "$resumed starts resumed, $within kills inside a snapshot, $ended ends with equal weights"
}

compare() {
  if cmp -s "$dir/killed/snap_iter_$iters.caffemodel" "$dir/whole/snap_iter_$iters.caffemodel"; then
    ended=$((ended + 1))
  else
    bad=1
    echo "weights differ after $killed kills"
  fi
  rm -f "$dir"/killed/snap_iter_*
}

case $what in
  table) table ;;
  kills) murder ;;
  all)
    table
    murder
    ;;
  *) echo "usage: scripts/faults.sh [all|table|kills]" >&2 && exit 2 ;;
esac
exit $bad
