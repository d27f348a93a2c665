"""Scans a database and prints the seconds: data_peer.py leveldb|lmdb PATH."""

import sys
import time

kind, path = sys.argv[1:]
records = 0
if kind == "leveldb":
    import plyvel

    begun = time.perf_counter()
    with plyvel.DB(path) as database:
        for key, value in database:
            records += 1
else:
    import lmdb

    begun = time.perf_counter()
    with lmdb.open(path, readonly=True, lock=False) as env, env.begin() as txn:
        for key, value in txn.cursor():
            records += 1
print(time.perf_counter() - begun)
