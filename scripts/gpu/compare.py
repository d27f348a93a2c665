"""How far two models' weights are apart: for each array the largest difference, by the array's largest value.

usage: compare.py A.safetensors B.safetensors
Prints the array that is furthest off and by how much. Needs nothing but Python.
"""
import array
import json
import sys


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32", entry
            begin, end = entry["data_offsets"]
            arrays[name] = array.array("f", data[begin:end])
    return arrays


def main():
    a, b = (read(path) for path in sys.argv[1:3])
    assert a.keys() == b.keys() and a, "not the same arrays"
    worst = (0.0, "no array")
    for name in a:
        assert len(a[name]) == len(b[name]), name
        largest = max(map(abs, a[name])) or 1.0
        off = max(abs(x - y) for x, y in zip(a[name], b[name])) / largest
        worst = max(worst, (off if off == off else float("inf"), name))
    print(f"{worst[1]} {worst[0]:.3g}")


main()
