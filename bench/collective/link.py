"""Two network namespaces and a link between them, for the scripts here. Needs root, `ip` and `tc`."""

import subprocess
import sys

HOSTS = [("rfbench-a", "10.77.31.1"), ("rfbench-b", "10.77.31.2")]


def sh(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done


def inside(host, *command):
    return ["ip", "netns", "exec", HOSTS[host][0], *command]


def make_link(shape):
    """Makes the link anew; `shape(host, qdisc)` gives each end its queue, by what is added to `qdisc`."""
    remove_link()
    for name, _ in HOSTS:
        sh("ip", "netns", "add", name)
    (a, _), (b, _) = HOSTS
    sh("ip", "link", "add", "rfveth", "netns", a, "type", "veth", "peer", "name", "rfveth", "netns", b)
    for host, (_, address) in enumerate(HOSTS):
        sh(*inside(host, "ip", "addr", "add", f"{address}/24", "dev", "rfveth"))
        sh(*inside(host, "ip", "link", "set", "rfveth", "up"))
        sh(*inside(host, "ip", "link", "set", "lo", "up"))
        shape(host, inside(host, "tc", "qdisc", "add", "dev", "rfveth", "root"))


def bucket(gbit):
    """A queue that holds a rate, without delay."""
    return ["tbf", "rate", f"{gbit}gbit", "burst", "2mb", "latency", "20ms"]


def remove_link():
    for name, _ in HOSTS:
        sh("ip", "netns", "del", name, check=False)
