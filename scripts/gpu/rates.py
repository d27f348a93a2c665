"""What a device reaches: products of large matrices in each precision, and copies within its memory.

usage: rates.py [--device cuda] [--size 8192] [--bytes 1073741824]
Prints `matrix PRECISION TFLOP/s` and `memory GB/s` (read plus written), each the best of ten.
"""
import argparse
import time

import torch


def best(device, run):
    """Least seconds of a run."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(12):
        wait()
        begun = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - begun)
    return min(times[2:])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    p.add_argument("--size", type=int, default=8192)
    p.add_argument("--bytes", type=int, default=1 << 30)
    a = p.parse_args()
    for precision, dtype in (("f32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        x, y = (torch.randn(a.size, a.size, device=a.device).to(dtype) for _ in range(2))
        out = torch.empty_like(x)
        seconds = best(a.device, lambda: torch.matmul(x, y, out=out))
        print(f"matrix {precision} {2 * a.size**3 / seconds / 1e12:.4g}", flush=True)
        del x, y, out
    x = torch.ones(a.bytes // 4, device=a.device)
    y = torch.empty_like(x)
    print(f"memory {2 * a.bytes / best(a.device, lambda: y.copy_(x)) / 1e9:.4g}", flush=True)


main()
