#!/usr/bin/env bash
# What communication costs: sums within a node against memcpy, and sums of 28 MB between ranks in each
# wire format: their time, how long a turn of the MPI pump takes, and (over TCP) the bytes on the wire.
#
#   usage: scripts/bench/communication.sh [RANKS...]      (default: 2 4)
#
#   MPIRUN  the launcher (mpirun)
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun=${MPIRUN:-mpirun}
program=$(cargo test --release --package caffe-actors --lib --no-run --message-format=json 2>/dev/null |
  grep -oE '"executable":"[^"]+/deps/caffe_actors-[^"]+"' | tail -1 | cut -d'"' -f4)

echo "within a node (reads and writes counted, medians of 25 in turns):"
"$program" --ignored --nocapture --test-threads=1 hands::tests::bandwidth | grep thread

open_mpi=()
if grep -q "Open MPI" <<<"$("$mpirun" --version)"; then open_mpi=(--oversubscribe --bind-to none); fi
for ranks in "${@:-2 4}"; do
  for n in $ranks; do
    for over in "shared memory" TCP; do
      extra=()
      if [ "$over" = TCP ]; then
        # MPICH's shared memory cannot be left out.
        [ ${#open_mpi[@]} -gt 0 ] || continue
        extra=(--mca btl "self,tcp" --mca btl_tcp_if_include lo)
      fi
      echo "over $over:"
      "$mpirun" -n "$n" "${open_mpi[@]}" "${extra[@]}" "$program" --ignored --nocapture \
        transport::mpi::measure::sums_through_a_lane | grep -E '^[0-9]+ ranks|^(f32|bf16|fp16)|^ +[0-9.]+ ms'
    done
  done
done
