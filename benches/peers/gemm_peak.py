"""The machine's own f32 matrix-product peak, at the shapes training uses; prints one JSON line.

Each shape is measured twice: as torch.mm does it by default (MKL), and with the products sent to oneDNN, which on some
CPUs has the wider vector kernels. The oneDNN figure counts only where its result is as exact as f32 (a CPU with bf16
tiles may compute in bf16 under that setting, which is another peak).
"""

import argparse
import json
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tokens", type=int, default=4096)
parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256])
parser.add_argument("--repeats", type=int, default=30)
parser.add_argument("--threads", type=int, default=2)
OPTIONS = parser.parse_args()

import torch  # noqa: E402  (after the arguments, so that a wrong one fails at once)

# A product in bf16 has a relative error near 4e-3, one in f32 below 1e-5 at these inner sizes.
EXACT_BELOW = 1e-5


def gflops(left, right, out):
    """GFLOP/s of one product: the median of the repeats."""
    times = []
    for repeat in range(OPTIONS.repeats + 3):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if repeat >= 3:
            times.append(time.perf_counter() - start)
    rows, inner = left.shape
    return 2 * rows * inner * right.shape[1] / sorted(times)[len(times) // 2] / 1e9


def main():
    torch.set_num_threads(OPTIONS.threads)
    torch.manual_seed(0)
    shapes = []
    for hidden in OPTIONS.hidden:
        shapes += [(OPTIONS.tokens, hidden, 4 * hidden), (OPTIONS.tokens, 4 * hidden, hidden)]
    rows = []
    for tokens, inner, outer in shapes:
        left, right = torch.randn(tokens, inner), torch.randn(inner, outer)
        out = torch.empty(tokens, outer)
        row = {"shape": [tokens, inner, outer], "default_gflops": gflops(left, right, out)}
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        fast = gflops(left, right, out)
        reference = left.double() @ right.double()
        error = ((out.double() - reference).norm() / reference.norm()).item()
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        row["onednn_gflops"] = fast if error < EXACT_BELOW else None
        rows.append(row)
    best = max(max(row["default_gflops"], row["onednn_gflops"] or 0.0) for row in rows)
    print(json.dumps({"peak_gflops": best, "default_gflops": max(r["default_gflops"] for r in rows), "shapes": rows}))


if __name__ == "__main__":
    main()
