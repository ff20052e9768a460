"""Debian packages and a signed mirror of them, made in memory and served over loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pysequoia
import zstandard

DAY = "Fri, 01 Mar 2030 10:00:00 UTC"
BEFORE = "Tue, 01 Jan 2030 10:00:00 UTC"


def tar_of(members: Sequence[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    """A tar of members; a pair is a file's path and bytes, a path with `/` at its end a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(b"x" * member.size))
                continue
            path, data = member
            info = tarfile.TarInfo(path.rstrip("/") if path != "./" else "./")
            info.mtime = 1_700_000_000
            if path.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.mode, info.size = (0o755 if "bin/" in path else 0o644), len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(path: str, target: str, *, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode = (tarfile.LNKTYPE if hard else tarfile.SYMTYPE), target, 0o777
    return info


def special(path: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = kind
    return info


def ar_of(parts: Sequence[tuple[str, bytes]]) -> bytes:
    out = bytearray(b"!<arch>\n")
    for name, data in parts:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return bytes(out)


def packed(data: bytes, compression: str) -> bytes:
    match compression:
        case "xz":
            return lzma.compress(data, preset=1)
        case "gz":
            return gzip.compress(data, mtime=0)
        case "zst":
            return zstandard.compress(data)
        case _:
            return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A package: its fields, its file, where a mirror has it."""

    fields: Mapping[str, str]
    data: bytes

    @property
    def filename(self) -> str:
        name, version = self.fields["Package"], self.fields["Version"].partition(":")[2] or self.fields["Version"]
        return f"pool/main/{name[0]}/{name}/{name}_{version}_{self.fields['Architecture']}.deb"

    def stanza(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.fields.items()]
        lines += [
            f"Filename: {self.filename}",
            f"Size: {len(self.data)}",
            f"SHA256: {hashlib.sha256(self.data).hexdigest()}",
        ]
        return "\n".join(lines) + "\n"


def make_deb(
    name: str,
    version: str = "1.0-1",
    *,
    files: Sequence[tarfile.TarInfo | tuple[str, bytes]] = (),
    scripts: Mapping[str, str] | None = None,
    architecture: str = "amd64",
    compression: str = "xz",
    **fields: str,
) -> Made:
    """A package; further fields by name, `_` for `-` (`Pre_Depends`)."""
    control = {"Package": name, "Version": version, "Architecture": architecture}
    control |= {key.replace("_", "-"): value for key, value in fields.items()}
    control["Description"] = f"made up {name}"
    text = "".join(f"{key}: {value}\n" for key, value in control.items()).encode()
    inner = [("./control", text), *((f"./{key}", value.encode()) for key, value in (scripts or {}).items())]
    end = f".{compression}" if compression else ""
    data = ar_of(
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{end}", packed(tar_of(inner), compression)),
            (f"data.tar{end}", packed(tar_of([("./", b""), *files]), compression)),
        ]
    )
    return Made(fields=control, data=data)


@cache
def signing_key(name: str = "archive") -> pysequoia.Tsk:
    return pysequoia.Tsk.generate(user_id=f"{name} <{name}@mirror.example>")


def keyring(folder: Path, name: str = "archive") -> Path:
    """A file with that key's public part."""
    path = folder / f"{name}.pgp"
    path.write_bytes(bytes(signing_key(name).extract_certificate()))
    return path


def signed(text: str, key: str = "archive") -> bytes:
    return pysequoia.sign(signing_key(key).signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR)


@dataclass(slots=True)
class Mirror:
    """The files of a mirror by path, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def publish(
        self,
        codename: str,
        packages: Sequence[Made],
        *,
        root: str = "debian",
        architectures: Sequence[str] = ("amd64",),
        origin: str = "Debian",
        date: str = BEFORE,
        valid_until: str = "",
        key: str = "archive",
        by_hash: bool = False,
        says: str = "",
    ) -> None:
        """Puts packages into a pocket, and signs it."""
        sums = []
        folder = f"{root}/dists/{codename}"
        for architecture in architectures:
            here = [item for item in packages if item.fields["Architecture"] in (architecture, "all")]
            text = lzma.compress("\n".join(item.stanza() for item in here).encode(), preset=1)
            path, digest = f"main/binary-{architecture}/Packages.xz", hashlib.sha256(text).hexdigest()
            sums.append(f" {digest} {len(text)} {path}")
            place = f"main/binary-{architecture}/by-hash/SHA256/{digest}" if by_hash else path
            self.files[f"{folder}/{place}"] = text
        for item in packages:
            self.files[f"{root}/{item.filename}"] = item.data
        lines = [f"Origin: {origin}", f"Codename: {says or codename}", f"Date: {date}"]
        lines += [f"Valid-Until: {valid_until}"] if valid_until else []
        lines += ["Acquire-By-Hash: yes"] if by_hash else []
        self.files[f"{folder}/InRelease"] = signed("\n".join([*lines, "SHA256:", *sums]) + "\n", key)


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            mirror.requests.append(path)
            data = mirror.files.get(path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        mirror.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()
