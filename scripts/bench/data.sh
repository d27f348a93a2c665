#!/usr/bin/env bash
# How fast records become batches (of floats, and of bytes for GPUs), and how fast databases are
# scanned beside plyvel and py-lmdb, taking turns in one run.
#
# usage: scripts/bench/data.sh [--rounds 5]
# PHOTOS is a folder with photographs to cut JPEGs out of, PYTHON a Python that has plyvel and lmdb.
# A figure is worth what the machine's quiet is worth: the load is written beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."

photos=${PHOTOS:-../shared/data/photos}
python=${PYTHON:-python3}
if [ -d "$photos" ]; then
    set -- --photos "$photos" "$@"
else
    echo "no photographs at $photos: set PHOTOS; using a stand-in" >&2
fi
if "$python" -c 'import lmdb, plyvel' 2>/dev/null; then
    set -- --peer "$python scripts/bench/data_peer.py" "$@"
else
    echo "$python lacks lmdb or plyvel: python3 -m venv venv && venv/bin/pip install lmdb plyvel," >&2
    echo "then PYTHON=venv/bin/python $0; measuring ours alone" >&2
fi
exec cargo bench --bench data -- "$@"
