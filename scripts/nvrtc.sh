#!/usr/bin/env bash
# NVRTC, the compiler of CUDA kernels, into target/nvrtc: with it tests compile every kernel without
# a GPU, a driver or a toolkit. Does nothing where it is there; prints the folder of the libraries.
# Exit code 1 where it cannot be had (no pip, no network, no x86-64 Linux): nothing is broken then, the
# tests that need it say that they were skipped.
#
#   usage: export CAFFE_CUDA_LIBS=$(scripts/nvrtc.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
version=13.0.88
folder=$PWD/target/nvrtc
libraries=$folder/nvidia/cu13/lib

if [ ! -e "$folder/$version" ]; then
  [ "$(uname -sm)" = "Linux x86_64" ] || { echo "nvrtc: for x86-64 Linux only" >&2; exit 1; }
  command -v python3 >/dev/null || { echo "nvrtc: no python3 to fetch it with" >&2; exit 1; }
  mkdir -p target
  work=$(mktemp -d target/nvrtc.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  # A wheel is a zip archive; unpacked by itself it needs no environment.
  if ! python3 -m pip download --quiet --disable-pip-version-check --retries 1 --no-deps --only-binary=:all: \
    --dest "$work" "nvidia-cuda-nvrtc==$version" >&2 ||
    ! python3 -m zipfile -e "$work"/*.whl "$work/whole"; then
    echo "nvrtc: nvidia-cuda-nvrtc $version could not be fetched from PyPI" >&2
    exit 1
  fi
  [ -e "$work/whole/nvidia/cu13/lib/libnvrtc.so.13" ] || { echo "nvrtc: the wheel has another form" >&2; exit 1; }
  touch "$work/whole/$version"
  rm -rf "$folder"
  mv "$work/whole" "$folder"
fi
echo "$libraries"
