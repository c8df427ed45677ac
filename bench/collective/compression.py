#!/usr/bin/env python3
"""What compressed sums send and take, between two ranks, over the loopback and over shaped links.

A shaped link connects two network namespaces (veth, and tbf at both ends; needs root, `ip` and `tc`, no
Python package). Every kind sums the same number of 32-bit floats, one nearly square matrix; plain sums
are measured at the beginning and at the end. Prints a table; a time is the median of the slowest rank.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

KINDS = [None, "bf16", "f16", "int8", "topk=0.01", "powersgd=4", None]
HOSTS = [("rfcomp-a", "10.77.32.1"), ("rfcomp-b", "10.77.32.2")]


def sh(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done


def inside(host, *command):
    return ["ip", "netns", "exec", HOSTS[host][0], *command]


def remove_link():
    for name, _ in HOSTS:
        sh("ip", "netns", "del", name, check=False)


def make_link(gbit):
    remove_link()
    for name, _ in HOSTS:
        sh("ip", "netns", "add", name)
    (a, _), (b, _) = HOSTS
    sh("ip", "link", "add", "rfveth", "netns", a, "type", "veth", "peer", "name", "rfveth", "netns", b)
    for host, (_, address) in enumerate(HOSTS):
        sh(*inside(host, "ip", "addr", "add", f"{address}/24", "dev", "rfveth"))
        sh(*inside(host, "ip", "link", "set", "rfveth", "up"))
        sh(*inside(host, "ip", "link", "set", "lo", "up"))
        sh(*inside(host, "tc", "qdisc", "add", "dev", "rfveth", "root", "tbf", "rate", f"{gbit}gbit",
                   "burst", "2mb", "latency", "20ms"))


def sums(args, kind, gbit):
    """The line of one kind: both ranks are started here, and told each other's address."""
    command = [str(args.ringfold), "bench", "allreduce", "--transport", "tcp", "--json",
               "--bytes", str(4 * args.floats), "--seconds", str(args.seconds)]
    if kind:
        command += ["--compression", kind]
    if gbit:
        command += ["--ip", ",".join(address for _, address in HOSTS)]
    ranks = []
    for rank in range(2):
        one = [*command, "--rank", str(rank)]
        ranks.append(subprocess.Popen(inside(rank, *one) if gbit else one, text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    addresses = " ".join(rank.stdout.readline().strip() for rank in ranks)
    for rank in ranks:
        rank.stdin.write(addresses + "\n")
        rank.stdin.flush()
    lines = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit(f"{kind} failed")
    return json.loads(lines[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringfold", type=pathlib.Path, default="target/release/ringfold")
    parser.add_argument("--floats", type=int, default=25_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each kind; at least 7 sums")
    parser.add_argument("--gbit", type=float, nargs="*", default=[10, 1], help="rates of shaped links")
    args = parser.parse_args()
    args.ringfold = args.ringfold.resolve()
    if not args.ringfold.exists():
        sys.exit(f"{args.ringfold}: not there; build with cargo build --release")
    if args.gbit and os.geteuid() != 0:
        sys.exit("network namespaces need root; `--gbit` without a number measures the loopback only")
    table = []
    try:
        for gbit in [None, *args.gbit]:
            if gbit:
                make_link(gbit)
            table.append([sums(args, kind, gbit) for kind in KINDS])
    finally:
        remove_link()
    links = ["loopback, ms"] + [f"{gbit:g} Gb/s, ms" for gbit in args.gbit]
    print("| kind | sent, MB | saved | " + " | ".join(links) + " |")
    print("|---" * (3 + len(links)) + "|")
    # Of two ranks, each sends as many bytes as the vector has.
    plain = 4 * args.floats
    for row, kind in enumerate(KINDS):
        sent = table[0][row].get("sent_bytes", plain)
        times = [f"{column[row]['median_us'] / 1e3:.1f}" for column in table]
        print(f"| {kind or 'none'} | {sent / 1e6:.2f} | {(1 - sent / plain) * 100:.1f} % | "
              + " | ".join(times) + " |")


if __name__ == "__main__":
    main()
