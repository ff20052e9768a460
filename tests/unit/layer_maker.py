"""Makes layers of a few tar members, and images of them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable

from wain.digest import Digest
from wain.layers import Layer

Member = tuple[tarfile.TarInfo, bytes]


def _info(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def file(name: str, data: bytes = b"", **fields: object) -> Member:
    return _info(name, size=len(data), **fields), data


def directory(name: str, **fields: object) -> Member:
    return _info(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields}), b""


def symlink(name: str, target: str) -> Member:
    return _info(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777), b""


def hardlink(name: str, target: str) -> Member:
    return _info(name, type=tarfile.LNKTYPE, linkname=target), b""


def _fast_gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def make_layer(
    members: Iterable[tarfile.TarInfo | Member], *, compress: Callable[[bytes], bytes] = _fast_gzip
) -> Layer:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(data))
    tar = stream.getvalue()
    blob = compress(tar)
    return Layer(
        digest=Digest.of(blob),
        diff_id=Digest.of(tar),
        size_bytes=len(blob),
        source=lambda: io.BytesIO(blob),
    )
