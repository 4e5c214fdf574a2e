"""Stopping one pod's processes without Kubernetes noticing who did it."""

import json
import os
import signal
import subprocess

from . import cgroups
from .control_plane import get
from .settings import Failure, wait_for


def signal_all(namespace, name, how):
    pids = set()
    for container in containers(namespace, name):
        pids |= cgroups.members(container)
    if not pids:
        raise Failure(f"{namespace}/{name} has no process here")
    for pid in pids:
        os.kill(pid, how)
    if how == signal.SIGKILL:
        return pids
    stopped = how == signal.SIGSTOP
    wait_for(f"{namespace}/{name}", lambda: all(is_stopped(pid) == stopped for pid in pids), 5, every=0.01)
    return pids


def cut(namespace, name, port, off):
    """Nothing comes in or goes out, or nothing to one port comes in; pods have a firewall of their own."""
    pids = set().union(*(cgroups.members(container) for container in containers(namespace, name)))
    if not pids:
        raise Failure(f"{namespace}/{name} has no process here")
    chains = [["INPUT", "-p", "tcp", "--dport", str(port)]] if port else [["INPUT"], ["OUTPUT"]]
    for chain in chains:
        subprocess.run(["nsenter", f"--net=/proc/{min(pids)}/ns/net", "iptables", "-w", "-I" if off else "-D",
                        *chain, "-j", "DROP"], check=True)


def containers(namespace, name):
    """The ids of its running containers; each is the name of a cgroup."""
    pod = get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    if pod is None:
        raise Failure(f"there is no pod {namespace}/{name}")
    statuses = json.loads(pod)["status"].get("containerStatuses", [])
    return [status["containerID"].partition("://")[2] for status in statuses if "running" in status.get("state", {})]


def is_stopped(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
