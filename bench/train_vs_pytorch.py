"""Whole training steps of convolutional networks: this repository's plan against PyTorch.

Forward, backward and SGD with momentum, float32, on random data. Each side's settings run as
processes of their own that take turns, a few steps at a time, several rounds; a setting's figure is
its best turn, since other load on the machine only ever takes away. PyTorch runs as one process
with two threads, and as two processes that average gradients over Gloo
(DistributedDataParallel), each with half of the batch; ours as one plan on two threads, and as two
replicas on one thread each. With --threads 1 both run one process on one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

BATCHES = {"cnn": 128, "resnet18": 64}


def network(name):
    import torch.nn as nn
    import torch.nn.functional as F

    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10),
        )  # fmt: skip

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


def pytorch(name, batch, threads, rank, world, port):
    """Answers each number of steps on the standard input with a line of JSON."""
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
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    size = (1, 28, 28) if name == "cnn" else (3, 32, 32)
    x = torch.randn(batch // world, *size)
    y = torch.arange(batch // world) % 10
    for line in sys.stdin:
        steps = int(line)
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        seconds = time.perf_counter() - start
        answer = {
            "samples_per_second": batch * steps / seconds,
            "processor_seconds_per_step": (time.process_time() - busy) / steps,
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(answer), flush=True)


class Setting:
    """The processes of one setting; one turn asks all of them."""

    def __init__(self, commands):
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.processes = [subprocess.Popen(command, **pipe) for command in commands]
        self.turns = []

    def turn(self, steps):
        for process in self.processes:
            process.stdin.write(f"{steps}\n")
        answers = [json.loads(process.stdout.readline()) for process in self.processes]
        total = dict(answers[0])
        total["samples_per_second"] = min(a["samples_per_second"] for a in answers)
        total["processor_seconds_per_step"] = sum(a["processor_seconds_per_step"] for a in answers)
        return total

    def measure(self, steps):
        self.turns.append(self.turn(steps))

    def best(self, key, pick):
        return pick(turn[key] for turn in self.turns)

    def close(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", help="the built example step_bench")
    parser.add_argument("network", choices=BATCHES)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, help="of a turn")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2)
    args = parser.parse_args()
    batch = args.batch or BATCHES[args.network]
    steps = args.steps or (10 if args.network == "cnn" else 1)

    def ours(replicas, threads):
        return Setting([[args.bench, args.network, str(batch), str(replicas), str(threads)]])

    def theirs(world, threads):
        numbers = [(batch, threads, rank, world, 29511) for rank in range(world)]
        own = [sys.executable, __file__, "--pytorch", args.network]
        return Setting([own + [str(n) for n in ns] for ns in numbers])

    if args.threads == 1:
        settings = {"ours": ours(1, 1), "PyTorch": theirs(1, 1)}
    else:
        settings = {
            "ours, 1 plan on 2 threads": ours(1, 2),
            "ours, 2 replicas": ours(2, 1),
            "PyTorch, 2 threads": theirs(1, 2),
            "PyTorch, 2 processes (DDP)": theirs(2, 1),
        }
    for setting in settings.values():
        setting.turn(max(2, steps // 2))
    for _ in range(args.rounds):
        for setting in settings.values():
            setting.measure(steps)
    print(f"{args.network}, batch {batch}; load {os.getloadavg()[0]:.1f}")
    print(f"{'':28}{'samples/s':>10}{'cpu ms/step':>12}{'peak MB':>9}")
    for name, setting in settings.items():
        speed = setting.best("samples_per_second", max)
        busy = setting.best("processor_seconds_per_step", min)
        memory = setting.best("peak_resident_bytes", max)
        print(f"{name:28}{speed:10.1f}{busy * 1e3:12.1f}{memory / 1e6:9.0f}")
        if "share_of_peak" in setting.turns[0]:
            share, peak = (setting.best(k, max) for k in ("share_of_peak", "peak_gflops_per_core"))
            print(f"{'':28}{share:10.0%} of the processor time's peak, {peak:.0f} GFLOP/s a core")
    for setting in settings.values():
        setting.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pytorch"]:
        pytorch(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
