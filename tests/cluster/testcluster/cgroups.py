"""The cgroups below which kubelets put their pods, in version 1 and 2 alike."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from .settings import wait_for

ROOT = "postern-cluster"


def hierarchies():
    """(mount point, version) of every cgroup hierarchy that has controllers."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup":
            found.append((Path(where), 1))
        elif kind == "cgroup2" and Path(where, "cgroup.controllers").read_text().strip():
            found.append((Path(where), 2))
    return found


def create(node):
    """Kubelet insists that the cgroup it is to work in exists."""
    for mount, version in hierarchies():
        path = mount
        for part in (ROOT, node):
            if version == 2:
                for controller in (path / "cgroup.controllers").read_text().split():
                    enable(path, controller)
            path = path / part
            path.mkdir(exist_ok=True)
            if version == 1 and (path / "cpuset.cpus").exists():
                inherit_cpuset(path)


def enable(path, controller):
    # Not every controller can be passed on; kubelet names those it misses.
    with suppress(OSError):
        (path / "cgroup.subtree_control").write_text(f"+{controller}")


def inherit_cpuset(path):
    # A new cpuset of version 1 is empty, and nothing can run in it.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (path / name).read_text().strip():
            (path / name).write_text((path.parent / name).read_text())


def members(part):
    """Pids in all cgroups whose path below ours contains `part`."""
    pids = set()
    for mount, _ in hierarchies():
        for folder, _, files in os.walk(mount / ROOT):
            if part in folder and "cgroup.procs" in files:
                with suppress(OSError):  # removed meanwhile
                    pids.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return pids - {0}


def kill_all():
    def all_gone():
        pids = members("")
        for pid in pids:
            kill(pid)
        return not pids

    wait_for("end of all pods", all_gone, 20, every=0.05)


def kill(pid):
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Asked again while we hold it: the number may have changed hands.
        if f"/{ROOT}/" in Path(f"/proc/{pid}/cgroup").read_text():
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        pass  # it has ended
    finally:
        os.close(handle)


def remove():
    for mount, _ in hierarchies():
        for folder, _, _ in os.walk(mount / ROOT, topdown=False):
            # The kernel may need a moment after the last process.
            wait_for(f"removal of {folder}", lambda folder=folder: removed(folder), 5, every=0.05)


def removed(folder):
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
