"""An image of one layer around a static program: no registry, no Dockerfile."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from .settings import Failure

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENTRYPOINT = "/postern"
USER = "65532"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def full_name(name):
    """The name as kubelet will ask for it: docker.io/library/postern:dev."""
    first, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def write(archive, name, program, extras=(), entrypoint=ENTRYPOINT):
    """Writes a `docker load` archive. Extras are FILE or FILE:/PATH/IN/IMAGE."""
    files = {entrypoint: Path(program), str(CERTIFICATES): CERTIFICATES}
    for extra in extras:
        source, _, target = extra.partition(":")
        files[target or f"/{Path(source).name}"] = Path(source)
    for file in files.values():
        if not file.is_file():
            raise Failure(f"{file} is not a file")
    if is_dynamic(Path(program)):
        raise Failure(f"{program} is not static: it needs a loader, and the image holds none. "
                      "For Rust: -C target-feature=+crt-static with an explicit --target")

    layer = archive.with_suffix(".layer")
    digest = write_layer(layer, files)
    configuration = json.dumps({
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": [entrypoint], "User": f"{USER}:{USER}", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()
    configuration_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": configuration_name, "RepoTags": [full_name(name)], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as tar:
        add_bytes(tar, configuration_name, configuration)
        tar.add(layer, arcname=f"{digest}.tar")
        add_bytes(tar, "manifest.json", json.dumps(manifest).encode())
    layer.unlink()


def write_layer(path, files):
    """Owner, times and order are fixed: the same files give the same image."""
    with tarfile.open(path, "w") as tar:
        folders = set()
        for target, source in sorted(files.items()):
            for parent in reversed(Path(target.lstrip("/")).parents[:-1]):
                if parent not in folders:
                    folders.add(parent)
                    entry = tarfile.TarInfo(str(parent))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(target.lstrip("/"))
            entry.size = source.stat().st_size
            entry.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            with source.open("rb") as content:
                tar.addfile(entry, content)
    with path.open("rb") as layer:
        return hashlib.file_digest(layer, "sha256").hexdigest()


def add_bytes(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def is_dynamic(program):
    """Whether an ELF file asks for a program interpreter (PT_INTERP)."""
    with program.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        offset = int.from_bytes(header[32:40], "little")
        size = int.from_bytes(header[54:56], "little")
        count = int.from_bytes(header[56:58], "little")
        file.seek(offset)
        table = file.read(size * count)
    return any(int.from_bytes(table[i * size:i * size + 4], "little") == 3 for i in range(count))
