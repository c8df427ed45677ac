"""Convolution on one thread, this repository's kernels against PyTorch's (oneDNN).

For each shape the two take turns, several rounds; what counts is each one's shortest time, since
other load on the machine only ever adds to it. Both include what a training step would pay:
layouts converted from and to plain NCHW, weights packed.
"""

import argparse
import subprocess
import time

import torch

# name: batch, in channels, out channels, size, kernel, stride, padding, groups
SHAPES = {
    "1->32 28x28 5x5": (64, 1, 32, 28, 5, 1, 2, 1),
    "32->64 14x14 5x5": (64, 32, 64, 14, 5, 1, 2, 1),
    "3->64 32x32 3x3": (64, 3, 64, 32, 3, 1, 1, 1),
    "64->64 32x32 3x3": (64, 64, 64, 32, 3, 1, 1, 1),
    "64->128 32x32 3x3 /2": (64, 64, 128, 32, 3, 2, 1, 1),
    "64->128 32x32 1x1 /2": (64, 64, 128, 32, 1, 2, 0, 1),
    "128->128 16x16 3x3": (64, 128, 128, 16, 3, 1, 1, 1),
    "128->256 16x16 3x3 /2": (64, 128, 256, 16, 3, 2, 1, 1),
    "256->256 8x8 3x3": (64, 256, 256, 8, 3, 1, 1, 1),
    "256->512 8x8 3x3 /2": (64, 256, 512, 8, 3, 2, 1, 1),
    "256->512 8x8 1x1 /2": (64, 256, 512, 8, 1, 2, 0, 1),
    "512->512 4x4 3x3": (64, 512, 512, 4, 3, 1, 1, 1),
    "3->64 224x224 7x7 /2": (4, 3, 64, 224, 7, 2, 3, 1),
    "64->64 56x56 1x1": (8, 64, 64, 56, 1, 1, 0, 1),
    "128 16x16 3x3 depthwise": (64, 128, 128, 16, 3, 1, 1, 128),
}


def pytorch(shape, runs=3):
    """The shortest seconds of the forward pass, the input and the weight gradient."""
    batch, ins, outs, size, kernel, stride, padding, groups = shape
    x = torch.randn(batch, ins, size, size)
    w = torch.randn(outs, ins // groups, kernel, kernel)
    b = torch.randn(outs)
    y = torch.conv2d(x, w, b, stride, padding, 1, groups)
    dy = torch.randn_like(y)

    def backward(mask):
        torch.ops.aten.convolution_backward(
            dy, x, w, [outs], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask
        )

    passes = [
        lambda: torch.conv2d(x, w, b, stride, padding, 1, groups),
        lambda: backward([True, False, False]),
        lambda: backward([False, True, False]),
    ]
    best = []
    for one in passes:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            one()
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", help="the built example conv_bench")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, help="instead of each shape's own")
    parser.add_argument("--direct", action="store_true", help="without Winograd's algorithm")
    parser.add_argument("--only", default="", help="shapes whose names contain this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    command = [args.bench, "direct"] if args.direct else [args.bench]
    ours = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    print("GFLOP/s, ours / PyTorch's, and the ratio of speeds (above 1: ours is faster)")
    print(f"{'':24}{'forward':>21}{'input gradient':>21}{'weight gradient':>21}")
    for name, shape in SHAPES.items():
        if args.only not in name:
            continue
        if args.batch:
            shape = (args.batch, *shape[1:])
        batch, ins, outs, size, kernel, stride, padding, groups = shape
        best = [[float("inf")] * 3 for _ in range(2)]
        for _ in range(args.rounds):
            ours.stdin.write(" ".join(map(str, shape)) + "\n")
            ours.stdin.flush()
            line = [float(s) for s in ours.stdout.readline().split()]
            for i, round_ in enumerate((line, pytorch(shape))):
                best[i] = [min(pair) for pair in zip(best[i], round_, strict=True)]
        out = (size + 2 * padding - kernel) // stride + 1
        flops = 2e-9 * batch * outs * out * out * (ins // groups) * kernel * kernel
        cells = (f"{flops / a:6.1f} /{flops / b:6.1f} {b / a:5.2f}" for a, b in zip(*best, strict=True))
        print(f"{name:24}" + "".join(f"{cell:>21}" for cell in cells), flush=True)
    ours.stdin.close()
    ours.wait()


if __name__ == "__main__":
    main()
