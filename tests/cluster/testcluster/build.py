"""Debian packages and Go programs; both cost nothing when they are there."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .settings import CACHE, SOURCE, Failure, say

TOOLS = SOURCE / "tools"
CHECKS = SOURCE / "checks"
CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")

# What must be there → the package that brings it. We look for the programs, not
# the packages: a machine may have containerd from elsewhere.
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "socat": "socat",
    "openssl": "openssl",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "swaks": "swaks",
    "haproxy": "haproxy",
    "gsasl": "gsasl",
    "smtp-sink": "postfix",
    "redis-server": "redis-server",
    "microsocks": "microsocks",
    "dkimverify": "python3-dkim",
    "dovecot": "dovecot-core",
    "slapadd": "slapd",
    "named": "bind9",
    "dnssec-signzone": "bind9-utils",
    "ldapmodify": "ldap-utils",
    "strace": "strace",
    "mkfs.xfs": "xfsprogs",
    "lua5.1": "lua5.1",
    "promtool": "prometheus",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
os.environ["PATH"] += f":{SBIN}"


def cni_directory():
    return next((d for d in CNI_PLUGINS if Path(d, "ptp").exists()), None)


def missing_packages():
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    # swaks speaks TLS only with it.
    if subprocess.run(["perl", "-MNet::SSLeay", "-e1"], stderr=subprocess.DEVNULL).returncode != 0:
        missing.add("libnet-ssleay-perl")
    if not cni_directory():
        missing.add("containernetworking-plugins")
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        missing.add("ca-certificates")
    # Without it swaks knows no TLS.
    if not shutil.which("perl") or subprocess.run(["perl", "-MNet::SSLeay", "-e1"], capture_output=True).returncode:
        missing.add("libnet-ssleay-perl")
    return sorted(missing)


def packages():
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        raise Failure(f"these packages are missing, and only root can install them: {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    with no_service_starts():
        # Without a main.cf Debian's postfix never starts by itself, not even
        # after a reboot; the tests give each instance a folder of its own.
        preseed = "postfix postfix/main_mailer_type select No configuration\n"
        run(["debconf-set-selections"], input=preseed)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        if not run(install, check=False):
            run(["apt-get", "update", "-q"])
            run(install)
    if missing_packages():
        raise Failure(f"still missing after apt-get: {' '.join(missing_packages())}")


class no_service_starts:
    """Debian's switch against starting a service on installation."""

    policy = Path("/usr/sbin/policy-rc.d")

    def __enter__(self):
        self.ours = not self.policy.exists()
        if self.ours:
            self.policy.write_text("#!/bin/sh\nexit 101\n")
            self.policy.chmod(0o755)

    def __exit__(self, *_):
        if self.ours:
            self.policy.unlink()


def run(command, check=True, **options):
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return done.returncode == 0


def go():
    program = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not program:
        raise Failure("`go` is missing: install Go 1.25 or newer (https://go.dev/dl) and put it on the PATH")
    return program


def binaries():
    """The folder of the programs for exactly these sources; it may not exist yet."""
    return CACHE / f"cluster-{fingerprint(TOOLS)}"


def fingerprint(source):
    digest = hashlib.sha256()
    digest.update(subprocess.check_output([go(), "env", "GOVERSION", "GOARCH"], cwd="/"))
    for file in sorted([*source.glob("go.*"), *source.glob("*/*.go")]):
        digest.update(f"{file.relative_to(source)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def build():
    packages()
    folder = binaries()
    if folder.exists():
        return folder
    say("building the Kubernetes binary; the first time takes some minutes")

    def make(draft):
        compile_go("./kube", draft / "kube", version_flags())
        compile_go("./pause", draft / "pause")
        for version in ("one", "two"):
            compile_go("./probe", draft / f"probe-{version}", f"-X main.version={version}")
        for link in ("kubectl", "helm"):
            (draft / link).symlink_to("kube")

    return kept(folder, make)


def checks():
    """Programs that hold objects against the rules of other tools. A module of their own: what changes here does
    not build Kubernetes again."""
    folder = CACHE / f"checks-{fingerprint(CHECKS)}"
    if folder.exists():
        return folder
    return kept(folder, lambda draft: compile_go("./kstatus", draft / "kstatus", source=CHECKS))


def kept(folder, make):
    """The folder, whole or not there at all: it is made beside and renamed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        draft = Path(name) / "draft"
        make(draft)
        try:
            draft.rename(folder)
        except OSError:  # somebody else has just built the same
            if not folder.exists():
                raise
    say(f"built {folder}")
    return folder


def version_flags():
    """What the API server says it is: charts ask for a minimum."""
    version = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\S*)", (TOOLS / "go.mod").read_text())
    values = {"gitVersion": version[1], "gitMajor": version[2], "gitMinor": version[3], "gitTreeState": "clean"}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def compile_go(package, output, linker_flags="", source=TOOLS):
    # No cgo: the programs are static and run in an empty image.
    environment = dict(os.environ, CGO_ENABLED="0")
    command = ["nice", "-n", "5", go(), "build", "-trimpath", "-buildvcs=false",
               "-ldflags", f"-s -w {linker_flags}", "-o", str(output), package]
    done = subprocess.run(command, cwd=source, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        raise Failure(f"go build {package} failed:\n{done.stderr[-3000:]}")
