"""Images in an OCI image layout: a folder with oci-layout, index.json and blobs by digest.

Source: OCI image specification, image-layout.md and annotations.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from wain.content import (
    LAYOUT_BYTES,
    REF_NAME,
    NamedContent,
    Progress,
    blob_name,
    blobs_of,
    index_entries,
    manifests_of,
    read_named,
)
from wain.digest import CHUNK_BYTES, Digest
from wain.errors import ImageError, OutputError
from wain.image import Blob, Image, Index
from wain.layers import Layer
from wain.names import LayoutReference
from wain.oci import MAX_JSON_BYTES, Descriptor, load_json
from wain.oci import Index as IndexDocument
from wain.output import cannot_write, replacing
from wain.platforms import Platform


def read(reference: LayoutReference, *, platform: Platform | None = None) -> Image | Index:
    """The image or index in the folder that has the reference's tag, or the only one where it has no tag.

    :raises ImageError: when the folder is no layout, or has no such image.
    """
    folder = reference.path
    _check_layout(folder)
    content = _Folder(folder)
    index = IndexDocument.parse(_small_file(folder / "index.json", folder))
    return read_named(content, index, tag=reference.tag, platform=platform, what=str(reference))


class _Folder(NamedContent):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def opener(self, descriptor: Descriptor) -> Callable[[], BinaryIO]:
        path = blob_path(self._folder, descriptor.digest)

        def open_blob() -> BinaryIO:
            try:
                return path.open("rb")
            except OSError as error:
                raise ImageError(
                    f"{path} cannot be read: {error.strerror}", hint="The layout is not whole; copy it again."
                ) from error

        return open_blob


def blob_path(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / digest.algorithm / digest.hex


def _check_layout(folder: Path) -> None:
    value = load_json(_small_file(folder / "oci-layout", folder), "oci-layout")
    version = value.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ImageError(f"{folder} is a layout of version {version!r}", hint="Layouts of version 1 are read.")


def _small_file(path: Path, folder: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ImageError(
            f"{folder} is no OCI image layout: {path.name} cannot be read ({error.strerror})",
            hint="Name a folder with oci-layout, index.json and blobs.",
        ) from error


def write(
    image: Image | Index,
    reference: LayoutReference,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
    outcome: dict[Digest, str] | None = None,
) -> Digest:
    """Adds the image to the folder, which is made where there is none; blobs it has are not written again.

    index.json is replaced last and at once: a reader finds what was there before, or the whole new image. An
    image that had the same tag loses it, its blobs stay.

    :param names: full names (`registry/repository:tag`) for tools that take them from annotations.
    :param outcome: is filled with what became of each blob: `written` or `present`.
    :raises OutputError: when the folder cannot be written or is something else.
    """
    folder = reference.path
    became: dict[Digest, str] = {} if outcome is None else outcome
    fresh = _begin(folder)
    try:
        for blob in blobs_of(image):
            became[blob.digest] = _write_blob(folder, blob, progress or (lambda what, done, total: None))
        manifests = manifests_of(image)
        for descriptor, data in manifests:
            path = blob_path(folder, descriptor.digest)
            if not path.exists():
                with replacing(path) as file:
                    file.write(data)
        _add_to_index(folder, index_entries(manifests[-1][0], image, reference.tag, names))
    except BaseException:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return image.digest


def _begin(folder: Path) -> bool:
    """Makes the folder a layout.

    :returns: whether there was nothing before.
    """
    try:
        present = sorted(os.listdir(folder))  # noqa: PTH208  (of what may be no folder)
    except FileNotFoundError:
        present = None
    except OSError as error:
        raise cannot_write(folder, error) from error
    if present and "oci-layout" not in present:
        raise OutputError(
            f"{folder} is a folder with other things in it", hint="Name an empty or new folder, or an OCI layout."
        )
    if present and "index.json" in present:
        _check_layout(folder)
    if not present:
        with replacing(folder / "oci-layout") as file:
            file.write(LAYOUT_BYTES)
    return not present


def _write_blob(folder: Path, blob: Blob | Layer, progress: Progress) -> str:
    path = blob_path(folder, blob.digest)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == blob.size_bytes:
            return "present"
    name = blob_name(blob)
    with blob.open() as stream, replacing(path) as file:
        done = 0
        while data := stream.read(CHUNK_BYTES):
            file.write(data)
            done += len(data)
            progress(name, done, blob.size_bytes)
    return "written"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer of index.json at a time; the lock is on the file that every layout has."""
    try:
        file = (folder / "oci-layout").open("rb")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _add_to_index(folder: Path, entries: tuple[Descriptor, ...]) -> None:
    with _locked(folder):
        path = folder / "index.json"
        old = IndexDocument.parse(_small_file(path, folder)) if path.exists() else IndexDocument(manifests=())
        taken = {item.annotations.get(REF_NAME) for item in entries}
        kept = [item for item in old.manifests if item.annotations.get(REF_NAME) not in taken]
        document = replace(old, manifests=(*kept, *entries))
        with replacing(path) as file:
            file.write(document.to_bytes())
