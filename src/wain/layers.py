"""Layers: a blob with its diff ID, and the tar entries that layers are made from.

Sources: OCI image specification, layer.md; POSIX.1-2001 pax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from wain.digest import Digest, VerifyingReader
from wain.oci import LAYER_GZIP, Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A changeset as a blob: reopenable, the same bytes each time, verified at the end of each reading.

    `source` need not have the bytes at hand: a layer that a registry is known to have fetches them when
    it is opened.
    """

    digest: Digest
    """Of the blob, compressed as `media_type` says."""
    diff_id: Digest
    """Of the uncompressed tar."""
    size_bytes: int
    """The blob's."""
    source: Callable[[], BinaryIO] = field(repr=False, compare=False)
    """Opens the blob from its first byte; the caller closes it."""
    media_type: str = LAYER_GZIP
    unpacked_bytes: int | None = None
    """Sum of the files' sizes, where it is known."""
    created_by: str = ""
    """What `docker history` shows for it."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """The descriptor's."""
    origin: str | None = None
    """`registry/repository` that is known to have the blob, to mount it from."""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(
            media_type=self.media_type,
            digest=self.digest,
            size_bytes=self.size_bytes,
            annotations=self.annotations,
        )

    def open(self) -> BinaryIO:
        """The blob's bytes; reading raises at the end when they are not those of `digest`.

        :raises HashMismatch: from the reader.
        """
        return VerifyingReader(self.source(), self.digest, self.size_bytes, what=f"layer {self.digest}")  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of a layer's tar.

    `path` is relative to the image's root, without a leading slash, `.` or `..`, in NFC as it came.
    Exactly one of the kinds: a regular file (`data` or `open_data`), a directory, a symbolic link, a hard link.
    """

    path: str
    kind: str
    """`file`, `directory`, `symlink` or `hardlink`."""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 315532800
    """Seconds since the epoch; 1980-01-01 unless told."""
    target: str = ""
    """Of a link: as `readlink` gives it; of a hard link, a path like `path`."""
    size_bytes: int = 0
    open_data: Callable[[], BinaryIO] | None = field(default=None, repr=False, compare=False)
    """A regular file's bytes, exactly `size_bytes` of them; small ones may be `io.BytesIO`."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
