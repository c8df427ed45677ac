"""A GPT's training step (forward, backward, AdamW): this repository's engine against PyTorch.

    cargo build --release -p ringfold-compute --example gpt_bench
    python3 bench/gpt_vs_pytorch.py target/release/examples/gpt_bench

The two take turns, several rounds, with two cores each; what counts is each one's best round, since
other load on the machine only ever adds to it. Seconds of processor time a step are printed beside
the tokens a second: on a loaded machine their ratio says more. Ours runs once as two replicas with a
thread each and once as one replica with two threads; PyTorch runs as one process with two threads.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

LAYERS, HEADS, WIDTH, CONTEXT, VOCABULARY, BATCH = 6, 6, 384, 256, 65, 8


def pytorch(threads, steps):
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            b, t, w = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, w // HEADS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.tokens(x) + self.positions)))

    model = Gpt()
    optimizer = torch.optim.AdamW(
        model.parameters(), 3e-4, (0.9, 0.95), weight_decay=0.1, fused=True
    )
    x = torch.randint(VOCABULARY, (BATCH, CONTEXT))
    y = torch.randint(VOCABULARY, (BATCH, CONTEXT))
    walls, cpus = [], []
    for step in range(steps + 2):
        start, cpu = time.perf_counter(), time.process_time()
        loss = F.cross_entropy(model(x).view(-1, VOCABULARY), y.view(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    walls, cpus = walls[2:], cpus[2:]
    return {
        "tokens_per_second": round(BATCH * CONTEXT / min(walls)),
        "cpu_seconds_per_step": round(min(cpus), 3),
        "peak_resident_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "loss": loss.item(),
    }


def run(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", help="the gpt_bench example, built for release")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pytorch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pytorch:
        print(json.dumps(pytorch(args.pytorch, args.steps)))
        return
    steps = str(args.steps)
    contestants = {
        "ours, 2 replicas": [args.binary, "2", "1", steps],
        "ours, 2 threads": [args.binary, "1", "2", steps],
        "PyTorch, 2 threads": [
            sys.executable, __file__, args.binary, "--pytorch", "2", "--steps", steps
        ],
    }
    best = {}
    for _ in range(args.rounds):
        for name, command in contestants.items():
            got = run(command)
            best.setdefault(name, got)
            for key, better in (("tokens_per_second", max), ("cpu_seconds_per_step", min)):
                best[name][key] = better(best[name][key], got[key])
    for name, got in best.items():
        print(
            f"{name:20} {got['tokens_per_second']:6} tokens/s, "
            f"{got['cpu_seconds_per_step']:.3f} s of processor time a step, "
            f"{got['peak_resident_kib'] / 1024:.0f} MiB at most"
        )


if __name__ == "__main__":
    main()
