#!/usr/bin/env python3
"""What a lost worker costs: the time from a SIGKILL to the next step of those that are left.

    cargo build --release
    python3 bench/elastic.py target/release/ringfold [--kills N] [--workers N] [--hidden N] [--json]

A coordinator, an agent with a process a worker, and a job on made-up data whose network has 10
million parameters by default. Again and again, when all ranks train, a random one is killed; the next
step is the first progress that comes of a later membership epoch and of a later step, on the
coordinator's clock. The killed process is started again by its agent and joins the job; the pause of
the others while it joins is measured too. The job reports every step, and runs on one thread a rank.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time


def run(binary, *arguments, **more):
    return subprocess.run([binary, *arguments], check=True, capture_output=True, text=True, **more).stdout


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Cluster:
    def __init__(self, binary, directory, workers):
        self.binary = binary
        log = open(os.path.join(directory, "coordinator.log"), "w")
        self.coordinator = subprocess.Popen(
            [binary, "coordinator", "--memory", "--listen", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = json.loads(self.coordinator.stdout.readline())["address"]
        self.environment = {**os.environ, "RINGFOLD_COORDINATOR": self.address}
        log = open(os.path.join(directory, "worker.log"), "w")
        self.worker = subprocess.Popen(
            [binary, "worker", "--slots", str(workers), "--cores", "1"],
            stdout=log, stderr=log, env=self.environment)

    def call(self, *arguments):
        return json.loads(run(self.binary, *arguments, "--json", env=self.environment))

    def close(self):
        self.worker.terminate()
        self.worker.wait()
        self.coordinator.terminate()
        self.coordinator.wait()


def job_file(directory, hidden):
    data = os.path.join(directory, "data.csv")
    draw = random.Random(1)
    with open(data, "w") as file:
        for _ in range(512):
            row = [f"{draw.random():.3f}" for _ in range(64)]
            file.write(",".join([*row, str(draw.randrange(10))]) + "\n")
    path = os.path.join(directory, "job.toml")
    with open(path, "w") as file:
        file.write(f"""name = "elastic"
[model]
kind = "mlp"
hidden = [{hidden}, {hidden}]
[data]
format = "csv"
path = "{data}"
header = false
label = 64
[train]
steps = 100000000
global_batch = 16
report_steps = 1
check_steps = 0
[train.optimizer]
kind = "sgd"
learning_rate = 0.001
momentum = 0.9
[output]
dir = "{directory}/out"
""")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=3100)
    parser.add_argument("--mode", default="fast", choices=["fast", "reproducible"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(arguments.binary, directory, arguments.workers)
        try:
            measured = measure(cluster, directory, arguments, draw)
        finally:
            cluster.close()
    if arguments.json:
        print(json.dumps(measured))
        return
    for name, values in measured.items():
        if isinstance(values, list) and values:
            print(f"{name}: median {statistics.median(values):.0f}, p90 {quantile(values, 0.9):.0f}, "
                  f"p99 {quantile(values, 0.99):.0f}, n {len(values)}")
        else:
            print(f"{name}: {values}")


def measure(cluster, directory, arguments, draw):
    workers = arguments.workers
    while sum(len(node["slots"]) for node in cluster.call("nodes")["nodes"]) < workers:
        time.sleep(0.05)
    job = cluster.call("submit", job_file(directory, arguments.hidden), "--workers", str(workers),
                       "--set", "cluster.restarts_max=100000",
                       "--set", f'cluster.mode="{arguments.mode}"')["job_id"]
    watch = subprocess.Popen([cluster.binary, "watch", job, "--json"], stdout=subprocess.PIPE,
                             text=True, env=cluster.environment)
    kill_ms, grow_ms, step_ms = [], [], []
    epoch, world, last, last_step, killed, settled = 0, 0, None, 0, None, 0
    for line in watch.stdout:
        event = json.loads(line)
        now, of = event.get("at_unix_ms"), event.get("membership_epoch")
        # A new world reports the last step of the one before once more.
        if event["event"] != "progress" or event["step"] <= last_step:
            continue
        last_step = event["step"]
        if of != epoch:
            if killed is not None:
                kill_ms.append(now - killed)
                killed = None
            elif last is not None:
                grow_ms.append(now - last)
            epoch, settled = of, 0
            world = len(cluster.call("job", job)["ranks"])
        elif last is not None:
            step_ms.append(now - last)
        last = now
        settled += 1
        if len(kill_ms) >= arguments.kills:
            break
        if world == workers and settled >= 5 and killed is None:
            ranks = cluster.call("job", job)["ranks"]
            if len(ranks) == workers:
                killed = time.time() * 1000
                os.kill(draw.choice(ranks)["pid"], signal.SIGKILL)
    watch.kill()
    cluster.call("cancel", job)
    inputs = 64
    parameters = (inputs + 1) * arguments.hidden + (arguments.hidden + 1) * arguments.hidden
    parameters += (arguments.hidden + 1) * 10
    return {
        "workers": workers,
        "parameters": parameters,
        "mode": arguments.mode,
        "ms from SIGKILL to the next step": kill_ms,
        "ms between two steps where a worker joins": grow_ms,
        "ms between two steps": step_ms,
    }


if __name__ == "__main__":
    sys.exit(main())
