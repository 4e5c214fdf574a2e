"""Up and down. `up` begins with whatever `down` would have to clean up."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from . import cgroups, control_plane, image, network, pki, processes
from .node import CNI_NETWORK, PAUSE_IMAGE, Node, all_nodes
from .settings import LOGS, STATE, VOLUMES, Failure, say, wait_for

OWNER_FILE = STATE / "postern-test-cluster"  # we delete no folder without it

PARTS = ("kube-apiserver", "etcd")  # that can be stopped alone

KUBELET_FOLDER = Path("/var/lib/kubelet")  # for the sockets of device plugins
KUBELET_FOLDER_IS_OURS = "kubelet-folder-is-ours"


def up(binaries, count):
    if healthy():
        running = len(all_nodes())
        if running != count:
            raise Failure(f"a cluster with {running} node(s) is running; `cluster down` first")
        say("already running")
        return
    other = network.owner()
    if other not in (None, str(STATE)):
        raise Failure(f"{network.BRIDGE} belongs to the cluster in {other}; "
                      f"end it first: POSTERN_CLUSTER_DIR={other} cluster down")
    down()
    prepare_folder()
    try:
        bring_up(binaries, [Node(index) for index in range(1, count + 1)])
    except Exception:
        say(f"failed; what runs is left for a look, logs are in {LOGS}, `cluster down` removes it")
        raise


def prepare_folder():
    if STATE.exists() and any(STATE.iterdir()):
        raise Failure(f"{STATE} holds something else; name another POSTERN_CLUSTER_DIR")
    if len(str(STATE)) > 60:
        raise Failure(f"{STATE} is too long: a socket's path below it may have 107 bytes")
    STATE.mkdir(parents=True, exist_ok=True)
    STATE.chmod(0o755)
    OWNER_FILE.write_text("made by tests/cluster/cluster, removed by `cluster down`\n")
    LOGS.mkdir()
    VOLUMES.mkdir()
    if not KUBELET_FOLDER.exists():
        (STATE / KUBELET_FOLDER_IS_OURS).touch()


def bring_up(binaries, nodes):
    kube = binaries / "kube"
    indexes = [node.index for node in nodes]
    pki.create(indexes)
    network.create(len(nodes))
    started = control_plane.start_storage(kube) | control_plane.start_api_server(kube)
    for node in nodes:
        node.prepare()
        started |= node.start_containerd()
    pause = STATE / "pause.tar"
    image.write(pause, PAUSE_IMAGE, binaries / "pause", entrypoint="/pause")
    for node in nodes:
        node.import_image(pause)

    def unless_one_ended(condition):
        def ask():
            processes.check(started)
            return condition()
        return ask

    wait_for("API server", unless_one_ended(control_plane.ready), 90)
    say("API server is ready")
    started |= control_plane.start_controllers(kube)
    for node in nodes:
        started |= node.start_agents(kube)
    control_plane.install_addons(kube)
    wait_for("nodes", unless_one_ended(lambda: nodes_ready(nodes)), 90)
    say(f"{len(nodes)} node(s) ready")
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_for("service account", unless_one_ended(lambda: control_plane.get(account)), 60)
    wait_for("DNS through its Service", unless_one_ended(control_plane.dns_ready), 60)
    say("DNS and Services answer")


def nodes_ready(nodes):
    items = json.loads(control_plane.get("/api/v1/nodes") or '{"items": []}')["items"]
    ready = {item["metadata"]["name"] for item in items
             for condition in item["status"].get("conditions", [])
             if condition["type"] == "Ready" and condition["status"] == "True"}
    return ready.issuperset(node.name for node in nodes)


def healthy():
    nodes = all_nodes()
    expected = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "local-provisioner"}
    for node in nodes:
        expected |= {f"{node.name}-{part}" for part in ("containerd", "kubelet", "kube-proxy")}
    running = {process.name for process in processes.ours() if process.leader}
    return bool(nodes) and running >= expected and control_plane.ready() and nodes_ready(nodes)


def down():
    """Pods before containerd, API server before etcd, then everything they left."""
    owner = network.owner()
    if owner not in (None, str(STATE)):
        raise Failure(f"{network.BRIDGE} belongs to the cluster in {owner}, not to {STATE}")
    folder_is_ours = OWNER_FILE.exists() or owner == str(STATE)
    if not folder_is_ours and not processes.ours():
        return
    say("stopping")
    # First what would start pods anew, and what would only miss the API server.
    last = ("kube-apiserver", "etcd", "-containerd")
    processes.stop(lambda p: p.leader and not p.name.endswith(last), patience=3)
    cgroups.kill_all()
    processes.stop(lambda p: p.name.endswith("-containerd") and not p.leader, patience=3)
    processes.stop(lambda p: p.name.endswith("-containerd"))
    processes.stop(lambda p: p.name == "kube-apiserver", patience=3)
    processes.stop(lambda p: True)
    network.remove()
    cgroups.remove()
    if folder_is_ours:
        unmount()
        remove_traces()
        shutil.rmtree(STATE, ignore_errors=not STATE.exists())
    say("down")


def stop_node(node):
    """As if its cable and its power were cut at once; pods run on, unseen."""
    network.set_cable(node.index, "down")
    processes.stop(lambda p: p.leader and p.name.startswith(f"{node.name}-"), patience=0)
    others = [n for n in all_nodes() if n.index != node.index]
    if others:
        network.route_services(others[0].index)
    say(f"{node.name} is gone")


def start_node(binaries, node):
    network.set_cable(node.index, "up")
    node.start_containerd()
    wait_for(f"containerd of {node.name}", node.containerd_answers, 20)
    node.start_agents(binaries / "kube")
    wait_for(node.name, lambda: nodes_ready([node]), 90)
    say(f"{node.name} is ready")


def stop_part(part):
    """At once, as a crash would."""
    processes.stop(lambda p: p.leader and p.name == part, patience=0)
    say(f"{part} is gone")


def start_part(binaries, part):
    start = {"kube-apiserver": control_plane.start_api_server, "etcd": control_plane.start_storage}[part]
    missing = not any(p.leader and p.name == part for p in processes.ours())
    if missing:
        start(binaries / "kube")
    wait_for("API server", control_plane.ready, 90)
    if missing and part == "kube-apiserver":
        # Elsewhere it elects a leader, so it has ended without an API server and begins anew. One that went on
        # would take nodes whose signs it could not see for lost.
        processes.stop(lambda p: p.leader and p.name == "kube-controller-manager", patience=0)
        control_plane.start_controller_manager(binaries / "kube")
    say(f"{part} is back")


def unmount():
    for _ in range(3):  # a mount may lie on another at the same place
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        points = [line.split()[1].replace("\\040", " ") for line in mounts]
        below = sorted((p for p in points if p.startswith(f"{STATE}/")), key=len, reverse=True)
        if not below:
            return
        for point in below:
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    raise Failure(f"still mounted: {' '.join(below)}")


def remove_traces():
    """Files at places that nobody can configure."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and os.readlink(link).startswith(f"{STATE}/"):
            link.unlink()
    if (STATE / KUBELET_FOLDER_IS_OURS).exists():
        shutil.rmtree(KUBELET_FOLDER, ignore_errors=True)
    for result in Path("/var/lib/cni/results").glob(f"{CNI_NETWORK}-*"):
        result.unlink()
    for address in Path(STATE).glob("node*/run/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
