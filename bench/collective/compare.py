#!/usr/bin/env python3
"""Runs Ringfold and its peers in turn on this host and prints medians and ratios.

Usage: compare.py --bench PATH [--python PATH] [--ranks N] [--bytes LIST] [--rounds N]
                  [--seconds S]

  --bench PATH   the built command: target/release/ringfold
  --python PATH  an interpreter with PyTorch; without it Gloo is left out
  --rounds N     each contender runs so often, in turn; the median of its medians counts

Open MPI and MPICH are Debian's (`apt-get install openmpi-bin libopenmpi-dev mpich libmpich-dev`);
one that is not installed is left out. A ratio is the peer's time by Ringfold's: above 1, Ringfold
is faster.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def contenders(options, folder):
    """Name, command, environment."""
    lengths = [str(length) for length in options.bytes]
    seconds, ranks = str(options.seconds), str(options.ranks)
    for name, flags in [
        ("ringfold shm", ["--transport", "shm"]),
        ("ringfold shm reproducible", ["--transport", "shm", "--mode", "reproducible"]),
        ("ringfold mem", ["--transport", "mem"]),
        ("ringfold tcp", ["--transport", "tcp"]),
    ]:
        command = [options.bench, "bench", "allreduce", "--json", "--ranks", ranks, "--seconds", seconds]
        yield name, command + ["--bytes", ",".join(lengths)] + flags, {}
    for name, flavour in [("open mpi", "openmpi"), ("mpich", "mpich")]:
        compiler, runner = shutil.which(f"mpicc.{flavour}"), shutil.which(f"mpirun.{flavour}")
        if not compiler or not runner:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        program = os.path.join(folder, flavour)
        source = os.path.join(HERE, "mpi_allreduce.c")
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)
        flags, variables = [], {}
        if flavour == "openmpi":
            flags = ["--oversubscribe", "--allow-run-as-root"]
            # Without a bound vader copies through the kernel where a container forbids it.
            variables = {"OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
        yield name, [runner, *flags, "-n", ranks, program, seconds, *lengths], variables
    if options.python:
        script = os.path.join(HERE, "gloo_allreduce.py")
        yield "gloo", [options.python, script, ranks, seconds, *lengths], {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--python")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument(
        "--bytes",
        type=lambda words: [int(word) for word in words.split(",")],
        default=[4 << 10, 64 << 10, 1 << 20, 64 << 20],
    )
    options = parser.parse_args()
    results, copies = {}, []
    with tempfile.TemporaryDirectory() as folder:
        runs = list(contenders(options, folder))
        for _ in range(options.rounds):
            for name, command, variables in runs:
                environment = {**os.environ, **variables}
                output = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                ).stdout
                for line in output.splitlines():
                    if not line.startswith("{"):
                        continue
                    sample = json.loads(line)
                    key = (name, sample["bytes"])
                    results.setdefault(key, []).append(sample["median_us"])
                    copies.append(sample.get("copy_gbps", 0))
    names = [name for name, _, _ in runs]
    median = {key: statistics.median(samples) for key, samples in results.items()}
    copied = statistics.median(copy for copy in copies if copy)
    print(f"{options.ranks} ranks, median of {options.rounds} rounds in turn, us "
          f"(times of ringfold shm); copy {copied:.2f} GB/s")
    print("| bytes | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for length in options.bytes:
        base = median[names[0], length]
        cells = [f"{median[n, length]:.1f} ({median[n, length] / base:.2f}x)" for n in names]
        print(f"| {length} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
