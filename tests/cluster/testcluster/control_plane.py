"""etcd, API server, controllers, scheduler, DNS and volumes, all on the host."""

import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request

from . import processes
from .settings import (
    API_SERVER,
    DNS_IP,
    DNS_PORT,
    HOST_IP,
    KUBECONFIG,
    PKI,
    POD_CIDR,
    SERVICE_CIDR,
    SOURCE,
    STATE,
    VOLUMES,
    ZONES,
)

ETCD = "http://127.0.0.1:23790"
ETCD_PEERS = "http://127.0.0.1:23800"


def start_storage(kube):
    configuration = STATE / "etcd.json"
    configuration.write_text(json.dumps({
        "name": "etcd",
        "data-dir": str(STATE / "etcd"),
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        "listen-peer-urls": ETCD_PEERS,
        "initial-advertise-peer-urls": ETCD_PEERS,
        "initial-cluster": f"etcd={ETCD_PEERS}",
        "unsafe-no-fsync": True,  # nothing here outlives the machine
        "log-level": "warn",
    }))
    return {"etcd": processes.start("etcd", [kube, "etcd", configuration])}


def start_api_server(kube):
    return {"kube-apiserver": processes.start("kube-apiserver", [
        kube, "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--bind-address={HOST_IP}",  # no port of the loopback is taken
        f"--advertise-address={HOST_IP}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={PKI}/service-accounts.pub",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet.key",
        # Else logs and exec look up the node's name in DNS.
        "--kubelet-preferred-address-types=InternalIP",
    ])}


def start_controller_manager(kube):
    return {"kube-controller-manager": processes.start("kube-controller-manager", [
        kube, "kube-controller-manager",
        f"--kubeconfig={KUBECONFIG}",
        f"--root-ca-file={PKI}/ca.crt",
        f"--service-account-private-key-file={PKI}/service-accounts.key",
        "--use-service-account-credentials",
        f"--cluster-cidr={POD_CIDR}",
        "--leader-elect=false",
        "--secure-port=0",
        # Half of the time to the first pod went into waiting for our own limits.
        "--kube-api-qps=300",
        "--kube-api-burst=500",
    ])}


def start_controllers(kube):
    return {
        **start_controller_manager(kube),
        "kube-scheduler": processes.start("kube-scheduler", [
            kube, "kube-scheduler", f"--kubeconfig={KUBECONFIG}", "--leader-elect=false", "--secure-port=0",
            "--kube-api-qps=300", "--kube-api-burst=500"]),
        "local-provisioner": processes.start("local-provisioner", [
            kube, "local-provisioner", f"--kubeconfig={KUBECONFIG}", f"--directory={VOLUMES}"]),
        "coredns": start_dns(kube),
    }


def start_dns(kube):
    """Serves cluster.local and what tests put into dns/zones, read anew within 3 s."""
    ZONES.mkdir(parents=True)
    # Nothing else exists. It is a file of that folder so that a test can replace it.
    (ZONES / "default.conf").write_text(f"""\
.:{DNS_PORT} {{
    bind {HOST_IP}
    template ANY ANY {{
        rcode NXDOMAIN
        authority ". 1 IN SOA nothing.invalid. nobody.invalid. 1 1 1 1 1"
    }}
}}
""")
    corefile = ZONES.parent / "Corefile"
    corefile.write_text(f"""\
cluster.local:{DNS_PORT} in-addr.arpa:{DNS_PORT} {{
    bind {HOST_IP}
    errors
    reload 2s 1s
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {KUBECONFIG}
        ttl 1
    }}
}}
import {ZONES}/*.conf
""")
    return processes.start("coredns", [kube, "coredns", "-conf", corefile])


def install_addons(kube):
    """What every cluster has: a default StorageClass and the Service for DNS."""
    text = (SOURCE / "addons.yaml").read_text()
    for name, value in {"DNS_IP": DNS_IP, "DNS_PORT": DNS_PORT, "HOST_IP": HOST_IP}.items():
        text = text.replace(f"${name}", str(value))
    subprocess.run([kube, "kubectl", f"--kubeconfig={KUBECONFIG}", "create", "--validate=false", "-f", "-"],
                   input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def get(path):
    """The answer of the API server, or None while there is none."""
    try:
        context = ssl.create_default_context(cafile=PKI / "ca.crt")
        context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
        with urllib.request.urlopen(API_SERVER + path, timeout=5, context=context) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return None


def ready():
    return get("/readyz") == "ok"


def dns_ready():
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\12kubernetes\7default\3svc\7cluster\5local\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(query, (DNS_IP, 53))
            return client.recv(512)[7] > 0  # answers
        except OSError:
            return False
