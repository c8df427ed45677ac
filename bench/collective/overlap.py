#!/usr/bin/env python3
"""How much of the communication of a ResNet-18 is hidden behind its backward pass.

Two hosts are simulated by network namespaces that a link of 10 Gb/s with a round trip of 0.2 ms connects
(veth; netem, or tbf and no delay beyond that of veth where the kernel has no netem, which is said). A
coordinator and a worker run in one, a second worker in the other; the same job runs with
cluster.overlap off and on in turns. Needs root, `ip` and `tc`; no Python package.

What is hidden is 1 - (waited for sums with overlap) / (waited for sums without), by medians over steps.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from link import HOSTS, bucket, inside, make_link, remove_link, sh

PORT = 7431
CONNECTS = 20


def shaped(gbit, rtt_ms):
    """Half of the round trip each way; as many packets may be on their way as the link holds."""
    def shape(host, qdisc):
        netem = ["netem", "delay", f"{rtt_ms / 2}ms", "rate", f"{gbit}gbit", "limit", "20000"]
        if sh(*qdisc, *netem, check=False).returncode:
            if host == 0:
                print("no netem in this kernel: the link has its rate, by tbf, and no delay")
            sh(*qdisc, *bucket(gbit))
    return shape


def serve(seconds):
    """Reads from one connection for so long, and prints the bytes."""
    with socket.create_server((HOSTS[0][1], PORT + 1)) as listener:
        print("listening", flush=True)
        for _ in range(CONNECTS):
            listener.accept()[0].close()
        connection, _ = listener.accept()
        room, got, began = bytearray(1 << 20), 0, time.monotonic()
        while time.monotonic() < began + seconds:
            got += connection.recv_into(room)
        print(got / (time.monotonic() - began))


def link_bandwidth():
    """Bytes a second of one plain stream from the second host to the first, and the seconds that it
    takes to connect: a round trip."""
    reader = subprocess.Popen(inside(0, sys.executable, __file__, "--serve"), stdout=subprocess.PIPE,
                              text=True)
    reader.stdout.readline()
    code = f"""
import socket, time
def connect():
    began = time.monotonic()
    return socket.create_connection(('{HOSTS[0][1]}', {PORT + 1})), time.monotonic() - began
print(min(connect()[1] for _ in range({CONNECTS})), flush=True)
stream, data = connect()[0], bytes(1 << 20)
while True: stream.sendall(data)
"""
    writer = subprocess.Popen(inside(1, sys.executable, "-c", code), stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    rtt = float(writer.stdout.readline())
    rate = float(reader.stdout.readline())
    reader.wait()
    writer.kill()
    writer.wait()
    return rate, rtt


def write_data(folder, records):
    noise = random.Random(1)
    header = struct.pack(">BBBB4I", 0, 0, 8, 4, records, 3, 32, 32)
    (folder / "images").write_bytes(header + noise.randbytes(records * 3 * 32 * 32))
    labels = bytes(noise.randrange(10) for _ in range(records))
    (folder / "labels").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, records) + labels)


def job(args, overlap):
    bucket = f"bucket_mb = {args.bucket_mb}\n" if args.bucket_mb and overlap == "on" else ""
    return f"""name = "overlap-{overlap}"
[model]
kind = "resnet18"
stem = "cifar"
loss = "cross_entropy"
[data]
format = "idx"
images = "images"
labels = "labels"
[train]
steps = {args.steps}
global_batch = {args.batch}
report_steps = 1
check_steps = 0
seed = 1
[train.optimizer]
kind = "sgd"
learning_rate = 0.01
[cluster]
workers = 2
threads = {args.threads}
mode = "{args.mode}"
overlap = "{overlap}"
{bucket}[output]
dir = "out-{overlap}"
"""


def run_job(args, folder, overlap):
    path = folder / f"{overlap}.toml"
    path.write_text(job(args, overlap))
    command = [str(args.ringfold), "submit", str(path), "--coordinator", f"{HOSTS[0][1]}:{PORT}",
               "--watch", "--json"]
    if args.timeline:
        command += ["--timeline", str(pathlib.Path(f"{args.timeline}-{overlap}.json").resolve())]
    done = subprocess.run(inside(0, *command), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the job failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    lines = (folder / f"out-{overlap}" / "metrics.jsonl").read_text().splitlines()
    reports = [line for line in map(json.loads, lines) if line["event"] == "progress"]
    # The first steps warm up.
    reports = reports[len(reports) // 3:]
    steps = [args.batch / report["samples_per_second"] for report in reports]
    waits = [s * report["communication_share"] for s, report in zip(steps, reports)]
    summary = json.loads((folder / f"out-{overlap}" / "summary.json").read_text())
    return steps, waits, summary["execution"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringfold", type=pathlib.Path, default="target/release/ringfold")
    parser.add_argument("--rounds", type=int, default=3, help="turns of off and on")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="images a step, of both hosts")
    parser.add_argument("--threads", type=int, default=1, help="of each host")
    parser.add_argument("--pin", action="store_true", help="each host to cores of its own, by taskset")
    parser.add_argument("--mode", default="fast", choices=["fast", "reproducible"])
    parser.add_argument("--bucket-mb", type=float, help="in place of the cost model's choice")
    parser.add_argument("--gbit", type=float, default=10)
    parser.add_argument("--rtt-ms", type=float, default=0.2)
    parser.add_argument("--timeline", help="write PREFIX-off.json and PREFIX-on.json", metavar="PREFIX")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(0.5)
    args.ringfold = args.ringfold.resolve()
    if not args.ringfold.exists():
        sys.exit(f"{args.ringfold}: not there; build with cargo build --release")
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    started = []
    try:
        make_link(shaped(args.gbit, args.rtt_ms))
        measure(args, started)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
        remove_link()


def measure(args, started):
    rate, rtt = link_bandwidth()
    print(f"link: {rate * 8 / 1e9:.2f} Gb/s of one stream, {rtt * 1e3:.3f} ms to connect", flush=True)
    log = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder, args.batch * 4)
        address = f"{HOSTS[0][1]}:{PORT}"
        coordinator = inside(0, str(args.ringfold), "coordinator", "--memory", "--insecure",
                             "--listen", address)
        started.append(subprocess.Popen(coordinator, stdout=log, stderr=log))
        for host, (node, _) in enumerate(HOSTS):
            worker = inside(host, str(args.ringfold), "worker", "--coordinator", address,
                            "--node", node, "--cores", str(args.threads))
            if args.pin:
                first = host * args.threads
                worker = ["taskset", "-c", f"{first}-{first + args.threads - 1}", *worker]
            started.append(subprocess.Popen(worker, stdout=log, stderr=log))
        steps = {"off": [], "on": []}
        waits = {"off": [], "on": []}
        ran = {}
        for _ in range(args.rounds):
            for overlap in ("off", "on"):
                took, waited, ran[overlap] = run_job(args, folder, overlap)
                steps[overlap] += took
                waits[overlap] += waited
    print(f"{ran['on']['buckets']} buckets of at most {ran['on']['bucket_bytes_max'] / 2**20:.1f} MiB, "
          f"mode {ran['on']['mode']}, {args.threads} thread(s) a host, batch {args.batch}")
    print(f"{'overlap':8} {'step ms':>9} {'waited ms':>10}   (medians of {len(steps['on'])} steps each)")
    median = {}
    for overlap in ("off", "on"):
        median[overlap] = statistics.median(waits[overlap])
        print(f"{overlap:8} {statistics.median(steps[overlap]) * 1e3:9.1f} {median[overlap] * 1e3:10.2f}")
    print(f"hidden: {(1 - median['on'] / median['off']) * 100:.0f} %")


if __name__ == "__main__":
    main()
