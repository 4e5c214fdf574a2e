"""Processes that outlive the command that started them.

Each carries a mark in its environment. The mark, read back from /proc, is how
we find our own and nobody else's: there are no pid files to go stale.
"""

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass

from .settings import LOGS, STATE, Failure

MARK = "POSTERN_CLUSTER_PROCESS"


@dataclass
class Process:
    pid: int
    name: str  # of what we started: a containerd's shims carry its name
    leader: bool  # started by us, not by one of ours
    handle: int  # a pidfd: it never means another process, the pid might


def start(name, command, netns=None):
    if netns:
        # Not `ip netns exec`: that remounts /sys and hides the cgroups.
        command = ["nsenter", f"--net=/run/netns/{netns}", *command]
    with open(LOGS / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            [str(part) for part in command], cwd=STATE, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=dict(os.environ, **{MARK: f"{STATE}={name}"}), start_new_session=True)


def check(started):
    """Fails with the end of its log if one of these has ended."""
    for name, process in started.items():
        if process.poll() is not None:
            log = (LOGS / f"{name}.log").read_text(errors="replace")
            raise Failure(f"{name} ended with {process.returncode}:\n{log[-2000:]}")


def ours():
    """All processes of this cluster that still run."""
    found = []
    prefix = f"{MARK}={STATE}=".encode()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        name = mark_of(pid, prefix)
        if name is None:
            os.close(handle)
        else:
            found.append(Process(pid, name, os.getsid(pid) == pid, handle))
    return found


def mark_of(pid, prefix):
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            for variable in environment.read().split(b"\0"):
                if variable.startswith(prefix):
                    return variable[len(prefix):].decode()
    except OSError:  # it has ended
        pass
    return None


def stop(wanted, patience=10):
    """Ends all of our processes for which `wanted(process)`, politely first."""
    targets = [p for p in ours() if wanted(p)]
    for how, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
        for process in targets:
            send(process, how)
        targets = still_running(targets, seconds)
        if not targets:
            return
    raise Failure(f"cannot be stopped: {', '.join(f'{p.name} ({p.pid})' for p in targets)}")


def send(process, how):
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.handle, how)


def still_running(targets, seconds):
    deadline = time.monotonic() + seconds
    running = {p.handle: p for p in targets}
    while running and (left := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(list(running), [], [], left)
        for handle in ended:
            del running[handle]
            os.close(handle)
    return list(running.values())
