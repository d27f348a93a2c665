#!/usr/bin/env bash
# Everything that has to hold before a change lands, cheapest first: format, clippy with and without
# MPI, every test, the tests of MPI once more with MPICH, the documentation. Installs what is missing.
#
#   usage: scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --release --workspace --all-targets --quiet -- -D warnings
cargo clippy --release --workspace --all-targets --quiet --no-default-features -- -D warnings

step "tests"
# Tests start mpirun themselves; as root Open MPI wants to be told that this is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Kernels are compiled where their compiler can be had; elsewhere those tests say that they were skipped.
if nvrtc=$(scripts/nvrtc.sh); then
  export CAFFE_CUDA_LIBS=$nvrtc${CAFFE_CUDA_LIBS:+:$CAFFE_CUDA_LIBS}
fi
cargo test --release --workspace

step "the same over MPICH"
scripts/test-mpich.sh

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet

printf '\nall is well\n'
