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

from link import HOSTS, bucket, inside, make_link, remove_link, sh

KINDS = [None, "bf16", "f16", "int8", "topk=0.01", "powersgd=4", None]


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
                make_link(lambda host, qdisc: sh(*qdisc, *bucket(gbit)))
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
