#!/usr/bin/env bash
# What the trace costs: whole runs of cifar10_quick with the rings off, on, written to files, and with
# layers, in turn; the median ratio of each to off. About 3 minutes on two cores.
#
#   usage: scripts/bench/trace.sh [ROUNDS ITERATIONS]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo bench --bench trace -- "$@"
