"""Certificates and kubeconfigs. They live as long as the state folder."""

import base64
import json
import subprocess

from . import network
from .settings import API_SERVER, HOST_IP, KUBECONFIG, KUBERNETES_IP, PKI

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def create(nodes):
    PKI.mkdir(mode=0o700)
    openssl("req", "-x509", *KEY, "-keyout", PKI / "ca.key", "-out", PKI / "ca.crt",
            "-subj", "/CN=postern test cluster", "-days", "30")
    certificate("apiserver", "/CN=kube-apiserver",
                "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                "IP:127.0.0.1", f"IP:{HOST_IP}", f"IP:{KUBERNETES_IP}")
    certificate("admin", "/O=system:masters/CN=admin", "DNS:admin")
    certificate("apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet", "DNS:apiserver")
    for index in nodes:
        name = f"node{index}"
        certificate(name, f"/O=system:nodes/CN=system:node:{name}", f"DNS:{name}", f"IP:{network.node_ip(index)}")
        write_kubeconfig(PKI / f"{name}.kubeconfig", name)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", PKI / "service-accounts.key")
    openssl("ec", "-in", PKI / "service-accounts.key", "-pubout", "-out", PKI / "service-accounts.pub")
    write_kubeconfig(KUBECONFIG, "admin")


def certificate(name, subject, *alternative_names):
    openssl("req", "-x509", *KEY, "-keyout", PKI / f"{name}.key", "-out", PKI / f"{name}.crt",
            "-CA", PKI / "ca.crt", "-CAkey", PKI / "ca.key", "-subj", subject, "-days", "30",
            "-addext", f"subjectAltName={','.join(alternative_names)}",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-addext", "extendedKeyUsage=serverAuth,clientAuth")


def write_kubeconfig(path, user):
    def data(name):
        return base64.b64encode((PKI / name).read_bytes()).decode()

    # JSON is YAML.
    path.write_text(json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "postern", "cluster": {
            "server": API_SERVER, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}}],
        "contexts": [{"name": "postern", "context": {"cluster": "postern", "user": user}}],
        "current-context": "postern",
    }, indent=1))
    path.chmod(0o600)
