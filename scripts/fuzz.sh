#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other, from seeds in the tree.
#
# usage: scripts/fuzz.sh [SECONDS_EACH] [TARGET …]        (60 seconds, all targets)
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler; no nightly Rust: the flags that are
# behind a switch are switched on for this build alone. With FUZZ_SANITIZER=address memory of the C
# libraries is watched, too. A finding lies in fuzz/artifacts/TARGET, and the script ends with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(net_text solver_text model solver_state datum)
export RUSTC_BOOTSTRAP=1

# Seeds: the example nets and solvers, the small models and images of the tests.
seed() {
    mkdir -p "fuzz/corpus/$1"
    find "${@:2}" -type f -size -64k -exec cp -n {} "fuzz/corpus/$1/" \; 2>/dev/null || true
}
seed net_text examples -name '*.prototxt' ! -name '*solver*'
seed net_text tests/errors/cases -name '*.prototxt'
seed solver_text examples -name '*solver*.prototxt'
seed model tests -name '*.caffemodel'
seed solver_state tests -name '*.solverstate'
seed datum tests/fixtures/images -name '*.jpg' -o -name '*.png'

for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    cargo fuzz run -s "${FUZZ_SANITIZER:-none}" "$target" -- -max_total_time="$seconds" \
        -max_len=65536 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
done
