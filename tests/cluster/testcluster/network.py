"""One bridge on the host, one network namespace per node behind it.

Everything is routed: the host reaches pods through their node, Services through
node 1, where kube-proxy's rules turn them into pods. Nothing leaves the machine.
"""

import json
import subprocess

from .settings import HOST_IP, SERVICE_CIDR, STATE, Failure

BRIDGE = "postern0"
LINK = "pnode"  # + index: the host's end of a node's cable


def namespace(index):
    return f"postern-node{index}"


def node_ip(index):
    return f"10.200.0.{10 + index}"


def pod_cidr(index):
    return f"10.244.{index}.0/24"


def ip(*words, check=True):
    done = subprocess.run(["ip", *words], text=True, capture_output=True)
    if check and done.returncode != 0:
        raise Failure(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def owner():
    """The state folder of the cluster whose bridge this is, if there is one."""
    bridges = json.loads(ip("-j", "link", "show", "dev", BRIDGE, check=False) or "[]")
    return bridges[0].get("ifalias", "an unknown program") if bridges else None


def create(count):
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "alias", str(STATE))
    ip("address", "add", f"{HOST_IP}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    for index in range(1, count + 1):
        create_node(index, count)
    route_services(1)


def create_node(index, count):
    inside = namespace(index)
    ip("netns", "add", inside)
    ip("link", "add", f"{LINK}{index}", "type", "veth", "peer", "name", "eth0", "netns", inside)
    ip("link", "set", f"{LINK}{index}", "master", BRIDGE, "up")
    ip("-n", inside, "link", "set", "lo", "up")
    ip("-n", inside, "address", "add", f"{node_ip(index)}/24", "dev", "eth0")
    ip("-n", inside, "link", "set", "eth0", "up")
    ip("-n", inside, "route", "add", "default", "via", HOST_IP)
    for other in range(1, count + 1):
        if other != index:
            ip("-n", inside, "route", "add", pod_cidr(other), "via", node_ip(other))
    ip("route", "add", pod_cidr(index), "via", node_ip(index))
    # Redirects would tell the host to send a Service's packets to a pod's node
    # directly, past the rules that translate them.
    settings = {"ip_forward": 1, "conf/all/send_redirects": 0, "conf/eth0/send_redirects": 0}
    script = "; ".join(f"echo {value} > /proc/sys/net/ipv4/{name}" for name, value in settings.items())
    subprocess.run(["nsenter", f"--net=/run/netns/{inside}", "sh", "-c", script], check=True)


def route_services(index):
    """Sends the host's traffic for Services through this node."""
    ip("route", "replace", SERVICE_CIDR, "via", node_ip(index))


def set_cable(index, state):
    """`down` makes a node unreachable, `up` brings it back."""
    ip("link", "set", f"{LINK}{index}", state)


def remove():
    for name in ip("netns", "list").split():
        if name.startswith(namespace("")):
            ip("netns", "delete", name)
    for link in json.loads(ip("-j", "link", "show", "type", "veth") or "[]"):
        if link["ifname"].startswith(LINK):
            ip("link", "delete", link["ifname"], check=False)  # may just go with its peer
    ip("link", "delete", BRIDGE, check=False)  # its routes go with it
