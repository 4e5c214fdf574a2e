"""A node: containerd, kubelet and kube-proxy in a network namespace."""

import json
import subprocess
from pathlib import Path

from . import build, cgroups, network, processes
from .settings import DNS_IP, KUBECONFIG, PKI, POD_CIDR, STATE, wait_for

PAUSE_IMAGE = "localhost/pause:local"
CNI_NETWORK = "postern-pods"


class Node:
    def __init__(self, index):
        self.index = index
        self.name = f"node{index}"
        self.folder = STATE / self.name
        self.socket = self.folder / "containerd.sock"
        self.netns = network.namespace(index)

    def prepare(self):
        self.folder.mkdir()
        cgroups.create(self.name)
        self.write_containerd()
        self.write_cni()
        self.write_kubelet()

    def start_containerd(self):
        name = f"{self.name}-containerd"
        return {name: processes.start(
            name, ["containerd", "--config", self.folder / "containerd.toml"], self.netns)}

    def start_agents(self, kube):
        return {
            f"{self.name}-kubelet": processes.start(f"{self.name}-kubelet", [
                kube, "kubelet",
                f"--config={self.folder}/kubelet.json",
                f"--kubeconfig={PKI}/{self.name}.kubeconfig",
                f"--hostname-override={self.name}",
                f"--node-ip={network.node_ip(self.index)}",
                f"--root-dir={self.folder}/kubelet",
                f"--cert-dir={self.folder}/kubelet-pki",
            ], self.netns),
            f"{self.name}-kube-proxy": processes.start(f"{self.name}-kube-proxy", [
                kube, "kube-proxy",
                f"--kubeconfig={KUBECONFIG}",
                f"--hostname-override={self.name}",
                "--proxy-mode=nftables",
                f"--cluster-cidr={POD_CIDR}",
                "--conntrack-max-per-core=0",  # a limit of the whole machine, not ours to set
                "--nodeport-addresses=primary",
            ], self.netns),
        }

    def containerd_answers(self):
        return self.ctr("version", check=False).returncode == 0

    def import_image(self, archive):
        """Replaces an image of the same name; running containers keep theirs."""
        wait_for(f"containerd of {self.name}", self.containerd_answers, 20)
        self.ctr("images", "import", "--digests=false", archive)

    def ctr(self, *words, check=True):
        command = ["ctr", "--address", self.socket, "--namespace", "k8s.io", *words]
        return subprocess.run([str(w) for w in command], check=check, capture_output=True, text=True)

    def write_containerd(self):
        cri = "io.containerd.grpc.v1.cri"
        (self.folder / "containerd.toml").write_text(f"""\
version = 2
root = "{self.folder}/images"
state = "{self.folder}/run"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
[plugins."{cri}"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE a sandbox fails with "can't get final child's PID".
restrict_oom_score_adj = true
# Else they lie in /run/netns, where a crash leaves them.
netns_mounts_under_state_dir = true
[plugins."{cri}".cni]
bin_dir = "{build.cni_directory()}"
conf_dir = "{self.folder}/cni"
[plugins."{cri}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{cri}".containerd.runtimes.runc.options]
Root = "{self.folder}/runc"
SystemdCgroup = false
""")

    def write_cni(self):
        # Not a bridge: between two pods of one bridge a Service's answer would
        # skip the rules that must translate it back.
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps({
            "cniVersion": "0.4.0",
            "name": CNI_NETWORK,
            "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": {
                    "type": "host-local",
                    "dataDir": str(self.folder / "addresses"),
                    "ranges": [[{"subnet": network.pod_cidr(self.index)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                }},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }))

    def write_kubelet(self):
        (self.folder / "resolv.conf").write_text(f"nameserver {DNS_IP}\n")
        (self.folder / "kubelet.json").write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "authentication": {"x509": {"clientCAFile": f"{PKI}/ca.crt"}, "webhook": {"enabled": True}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{PKI}/{self.name}.crt",
            "tlsPrivateKeyFile": f"{PKI}/{self.name}.key",
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_IP],
            "resolvConf": f"{self.folder}/resolv.conf",
            "failCgroupV1": False,  # refused by default since 1.35
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.ROOT}/{self.name}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "localStorageCapacityIsolation": True,
            "makeIPTablesUtilChains": False,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "kubeAPIQPS": 300,
            "kubeAPIBurst": 500,
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            "podLogsDir": f"{self.folder}/logs",
        }))


def all_nodes():
    """The nodes of the cluster whose state folder exists."""
    return [Node(int(folder.name[4:])) for folder in sorted(Path(STATE).glob("node[0-9]"))]
