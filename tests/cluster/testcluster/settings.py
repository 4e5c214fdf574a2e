"""Where things are, which addresses are used, and how we speak to the reader."""

import os
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("POSTERN_CLUSTER_DIR") or "/tmp/postern-cluster").absolute()
CACHE = Path(os.environ.get("POSTERN_CACHE") or Path.home() / ".cache/postern").absolute()

# A cluster that somebody else runs: tests use it, we never touch it.
FOREIGN_KUBECONFIG = os.environ.get("POSTERN_TEST_KUBECONFIG")

KUBECONFIG = STATE / "kubeconfig"
LOGS = STATE / "log"
PKI = STATE / "pki"
VOLUMES = STATE / "volumes"
ZONES = STATE / "dns" / "zones"

HOST_IP = "10.200.0.1"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
DNS_PORT = 10053  # on HOST_IP; pods reach it as DNS_IP:53
POD_CIDR = "10.244.0.0/16"
API_SERVER = f"https://{HOST_IP}:6443"

_started = time.monotonic()


class Failure(Exception):
    """Something the reader can act on; the text says what."""


def say(text):
    print(f"cluster: {time.monotonic() - _started:5.1f} s  {text}", file=sys.stderr, flush=True)


def wait_for(what, condition, seconds, every=0.1):
    """Returns the first true answer of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s; logs are in {LOGS}")
        time.sleep(every)
