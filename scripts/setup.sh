#!/usr/bin/env bash
# Installs what the build and the programs need and this machine lacks. Debian and Ubuntu; elsewhere
# it names what is missing. Of the two MPIs Open MPI stays the default (mpicc, mpirun); MPICH, which the
# tests use too, goes by mpicc.mpich and mpirun.mpich. Safe to run again and again: it does nothing when all is there.
#
#   usage: scripts/setup.sh
set -euo pipefail

# Debian package : a file, a command or a Python module that shows it is there. (g++ and pip are the tests': kernels
# run on a simulated device, and their compiler for real ones comes from PyPI.)
needs=(
  "gcc:cmd:cc"
  "g++:cmd:c++"
  "pkg-config:cmd:pkg-config"
  "make:cmd:make"
  "cmake:cmd:cmake"
  "nasm:cmd:nasm"
  "libopenmpi-dev:cmd:mpicc"
  "openmpi-bin:cmd:mpirun"
  "libmpich-dev:cmd:mpicc.mpich"
  "mpich:cmd:mpirun.mpich"
  "libclang-dev:glob:/usr/lib/llvm-*/lib/libclang.so*"
  "libdnnl-dev:lib:libdnnl.so.2"
  "libgomp1:lib:libgomp.so.1"
  "libhdf5-dev:glob:/usr/lib/*/libhdf5*.so"
  "procps:cmd:ps"
  "python3-pip:python:pip"
)

present() { # kind, what
  case "$1" in
    cmd) command -v "$2" >/dev/null ;;
    python) python3 -c "import $2" 2>/dev/null ;;
    glob) compgen -G "$2" >/dev/null ;;
    # Not a pipe: grep -q would end ldconfig by SIGPIPE, which pipefail takes for "missing".
    lib) grep -qF "$2" <<<"$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null)" ;;
  esac
}

missing=()
for need in "${needs[@]}"; do
  IFS=: read -r package kind what <<<"$need"
  present "$kind" "$what" || missing+=("$package")
done

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is missing; install Rust 1.95 or newer first (https://rustup.rs)" >&2
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

echo "setup: installing ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "setup: this is no Debian; install the counterparts of: ${missing[*]}" >&2
  exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root: apt-get install ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
