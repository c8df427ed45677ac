#!/usr/bin/env python3
"""Whole training steps: `ringfold bench train` against PyTorch, in turns, on one machine.

    cargo build --release
    python3 bench/models.py target/release/ringfold [MODEL ...]

Forward, backward and optimizer in float32 on made-up data. Each round runs every setting once, as a
process of its own; a setting's figure is its best round, since other load on the machine only ever
takes away. Ours: one rank on all threads, one rank with a replica a core, and two ranks. PyTorch:
one process on two threads, and two processes that average gradients over Gloo
(DistributedDataParallel), each with half of the batch. A ratio above 1 says that ours is faster.
The share of the peak counts the operations of direct sums, so that Winograd's algorithm can pass
100 %. Needs PyTorch and numpy.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

# Name: batch, steps of ours, steps of PyTorch.
MODELS = {
    "mlp": (128, 3000, 600),
    "mlp-1024": (1024, 400, 100),
    "cnn": (128, 120, 20),
    "resnet18": (64, 20, 4),
    "gpt": (8, 20, 5),
    "softmax": (256, 20000, 4000),
}


def network(name):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    if name.startswith("mlp"):
        relu = nn.ReLU
        return nn.Sequential(
            nn.Linear(784, 512), relu(), nn.Linear(512, 512), relu(), nn.Linear(512, 10)
        )
    if name == "softmax":
        return nn.Linear(1000, 10)
    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10),
        )  # fmt: skip
    if name == "gpt":
        return gpt(torch, nn, F)

    class Block(nn.Module):
        def __init__(self, ins, outs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outs)
            self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outs)
            self.shortcut = nn.Sequential()
            if ins != outs:
                conv = nn.Conv2d(ins, outs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outs))

        def forward(self, x):
            h = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))

    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    ins = 64
    for stage, outs in enumerate([64, 128, 256, 512]):
        for i in range(2):
            layers.append(Block(ins, outs, 2 if stage > 0 and i == 0 else 1))
            ins = outs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def gpt(torch, nn, F):
    layers, heads, width, context, vocabulary = 6, 6, 384, 256, 65

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            b, t, w = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, heads, w // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Parameter(0.02 * torch.randn(context, width))
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, vocabulary, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x):
            logits = self.head(self.norm(self.blocks(self.tokens(x) + self.positions)))
            return logits.view(-1, vocabulary)

    return Gpt()


def pytorch(name, batch, steps, threads, rank, world, port):
    """Trains and prints a line of JSON; the fastest of windows of steps counts."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = network(name)
    if world > 1:
        import torch.distributed as dist

        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
        model = torch.nn.parallel.DistributedDataParallel(model)
    own = batch // world
    if name == "gpt":
        optimizer = torch.optim.AdamW(model.parameters(), 3e-4, fused=True)
        x, y = torch.randint(65, (own, 256)), torch.randint(65, (own * 256,))
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        shapes = {"cnn": (1, 28, 28), "resnet18": (3, 32, 32), "softmax": (1000,)}
        x = torch.randn(own, *shapes.get(name, (784,)))
        y = torch.arange(own) % 10
    rates = []
    for window in range(6):
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        rates.append(batch * steps / (time.perf_counter() - start))
    answer = {
        "samples_per_second": sorted(rates[1:])[2],
        "resident_bytes_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(answer), flush=True)


def run_theirs(name, world, threads, port):
    batch, _, steps = MODELS[name]
    own = [sys.executable, __file__, "--pytorch", name]
    numbers = [(batch, steps, threads, rank, world, port) for rank in range(world)]
    commands = [own + [str(n) for n in ns] for ns in numbers]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipe) for command in commands]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    answers[0]["samples_per_second"] = min(a["samples_per_second"] for a in answers)
    return answers[0]


def run_ours(binary, name, flags):
    batch, steps, _ = MODELS[name]
    command = [binary, "bench", "train", "--model", name.split("-")[0], "--batch", str(batch)]
    command += ["--steps", str(steps), "--json", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", help="the ringfold command, built for release")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ours = {
        "ours, 1 rank, 2 threads": ["--workers", "1", "--threads", "2"],
        "ours, 1 rank, 2 replicas": ["--workers", "1", "--threads", "2", "--replicas", "2"],
        "ours, 2 ranks": ["--workers", "2", "--threads", "1"],
    }
    theirs = {"PyTorch, 2 threads": (1, 2), "PyTorch, 2 processes (DDP)": (2, 1)}
    port = 29500
    for name in args.models or MODELS:
        turns = {}
        load = os.getloadavg()[0]
        for _ in range(args.rounds):
            for setting, flags in ours.items():
                turns.setdefault(setting, []).append(run_ours(args.binary, name, flags))
            for setting, (world, threads) in theirs.items():
                port += 1
                turns.setdefault(setting, []).append(run_theirs(name, world, threads, port))
        best = {s: max(ts, key=lambda t: t["samples_per_second"]) for s, ts in turns.items()}
        print(f"{name}, batch {MODELS[name][0]}; load before {load:.1f}")
        print(f"  {'':28}{'samples/s':>11}{'of peak':>9}{'peak MB':>9}{'arenas MB':>11}")
        for setting, turn in best.items():
            share = f"{turn['peak_share']:.0%}" if "peak_share" in turn else ""
            arenas = f"{turn['arena_bytes'] / 1e6:.0f}" if "arena_bytes" in turn else ""
            memory = turn["resident_bytes_max"] / 1e6
            rate = turn["samples_per_second"]
            print(f"  {setting:28}{rate:11.1f}{share:>9}{memory:9.0f}{arenas:>11}")
        rate = {s: turn["samples_per_second"] for s, turn in best.items()}
        mine = max(rate[s] for s in ours)
        fastest = max(rate[s] for s in theirs)
        ddp = rate["PyTorch, 2 processes (DDP)"]
        print(f"  best of ours: {mine / fastest:.2f} x PyTorch's best, {mine / ddp:.2f} x DDP\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pytorch"]:
        pytorch(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
