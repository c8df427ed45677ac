"""Times Gloo's all-reduce of floats through PyTorch as `ringfold bench allreduce` does.

Usage: gloo_allreduce.py RANKS SECONDS BYTES...   One line of JSON a length.
"""

import json
import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def batch(values, operations):
    dist.barrier()
    start = time.perf_counter()
    for _ in range(operations):
        dist.all_reduce(values)
    mine = torch.tensor([(time.perf_counter() - start) / operations], dtype=torch.float64)
    dist.all_reduce(mine, op=dist.ReduceOp.MAX)
    return mine.item()


def rank_main(rank, ranks, port, seconds, lengths):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    for length in lengths:
        values = torch.zeros(length // 4)
        batch(values, 3)
        once = batch(values, 3)
        operations = max(1, int(200e-6 / once) + 1) if once < 200e-6 else 1
        samples = int(min(400, max(7, seconds / (operations * once))))
        times = sorted(batch(values, operations) for _ in range(samples))
        median, p90 = times[samples // 2], times[int(samples * 0.9)]
        if rank == 0:
            line = {
                "bytes": length,
                "median_us": round(median * 1e6, 2),
                "p90_us": round(p90 * 1e6, 2),
                "algbw_gbps": round(length / median / 1e9, 3),
            }
            print(json.dumps(line), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks, seconds = int(sys.argv[1]), float(sys.argv[2])
    lengths = [int(word) for word in sys.argv[3:]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(rank_main, args=(ranks, port, seconds, lengths), nprocs=ranks)
