#!/usr/bin/env bash
# Whole training steps beside PyTorch's, taking turns in one run.
#
# usage: scripts/bench/step.sh [NET...] [--rounds 3] [--steps 10] [--layers]
# NET: cifar10_quick googlenet alexnet resnet50; the first two by default. Two threads on each side,
# f32, data in memory; THREADS=n for another number. Results go to benches/results/.
# PEER is the peer's program (a line of JSON per measurement), PYTHON a Python that has torch.
# A figure is worth what the machine's quiet is worth: the load is written beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."

peer=${PEER:-../shared/bench/peer_torch.py}
python=${PYTHON:-python3}
if [ ! -f "$peer" ]; then
    echo "no peer at $peer: set PEER to peer_torch.py; measuring ours alone" >&2
elif ! "$python" -c 'import torch' 2>/dev/null; then
    echo "$python has no torch: python3 -m venv venv && venv/bin/pip install torch numpy," >&2
    echo "then PYTHON=venv/bin/python $0; measuring ours alone" >&2
else
    set -- --peer "$python $peer" "$@"
fi
exec cargo bench --bench step -- \
    --threads "${THREADS:-2}" --out benches/results "$@"
