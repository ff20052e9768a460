"""Layers: a blob with its diff ID, and the tar entries that layers are made from.

Sources: OCI image specification, layer.md; POSIX.1-2001 pax.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import BinaryIO, ClassVar

from msgspec import Struct, field
from msgspec.structs import replace

from wain import gzips, splice, ustar
from wain.digest import CHUNK_BYTES, Digest, VerifyingReader
from wain.errors import HashMismatch, ImageError, WainError
from wain.install import InstallPlan, Scheme, names_of, plan_install
from wain.oci import JSON, LAYER_GZIP, LAYER_TAR, Descriptor
from wain.records import Record
from wain.store import Store, recipe_key
from wain.ustar import END, header, padding
from wain.wheels import Wheel

log = logging.getLogger(__name__)

WHEEL_RECIPE = "wheels/1"
"""Names what `wheel_layer` computes; another number where the same wheels give other bytes."""
RECIPE_KEY = "dev.wain.recipe-key"
"""The annotation that says which recipe and inputs a layer is made of."""
FOLDER_MODE = 0o755
_MEMO = "layer"
_MEMBER_BYTES = 4 << 20


class Layer(Record, frozen=True, kw_only=True):
    """A changeset as a blob: reopenable, the same bytes each time, verified at the end of each reading.

    `source` need not have the bytes at hand: a layer that a registry is known to have fetches them when
    it is opened.
    """

    unshown: ClassVar = ("source",)
    uncompared: ClassVar = ("source",)

    digest: Digest
    """Of the blob, compressed as `media_type` says."""
    diff_id: Digest
    """Of the uncompressed tar."""
    size_bytes: int
    """The blob's."""
    source: Callable[[], BinaryIO]
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


class Entry(Record, frozen=True, kw_only=True):
    """One member of a layer's tar.

    `path` is relative to the image's root, without a leading slash, `.` or `..`, in NFC as it came.
    Exactly one of the kinds: a regular file (`open_data`), a directory, a symbolic link, a hard link; or what acts on
    the layers below: a whiteout, which removes this path, and an opaque one, which empties this directory.
    """

    unshown: ClassVar = ("open_data",)
    uncompared: ClassVar = ("open_data",)

    path: str
    kind: str
    """`file`, `directory`, `symlink`, `hardlink`, `whiteout` or `opaque`."""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 315532800
    """Seconds since the epoch; 1980-01-01 unless told."""
    target: str = ""
    """Of a link: as `readlink` gives it; of a hard link, a path like `path`."""
    size_bytes: int = 0
    open_data: Callable[[], BinaryIO] | None = None
    """A regular file's bytes, exactly `size_bytes` of them; small ones may be `io.BytesIO`."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class Folder(Struct, frozen=True, kw_only=True):
    """What a folder that the base has is like there, so that a layer does not change it."""

    mode: int = FOLDER_MODE
    uid: int = 0
    gid: int = 0


def wheel_layer_key(
    digests: Iterable[Digest],
    scheme: Scheme,
    *,
    folders: Mapping[str, Folder] | None = None,
    mtime: int = ustar.ZIP_EPOCH,
) -> Digest:
    """The recipe key of the layer that wheels with these digests make: known before any wheel is at hand."""
    return recipe_key(
        {
            **({} if mtime == ustar.ZIP_EPOCH else {"mtime": mtime}),
            "recipe": WHEEL_RECIPE,
            "compressor": f"{gzips.COMPRESSOR} level {gzips.LEVEL}",
            "small": splice.SMALL_BYTES,
            "shared": splice.SHARED_BYTES,
            "scheme": {**scheme.to_json()},
            "folders": {
                path: [folder.mode, folder.uid, folder.gid] for path, folder in sorted((folders or {}).items())
            },
            "wheels": [*sorted(set(digests))],
        }
    )


def remembered_layer(key: Digest, *, store: Store, created_by: str = "") -> Layer | None:
    """The layer that the store remembers under a recipe key and still has; else None."""
    memo = store.memo(_MEMO, key)
    if memo is None:
        return None
    try:
        digest, diff_id = Digest(str(memo["digest"])), Digest(str(memo["diff_id"]))
        size_bytes, unpacked_bytes = memo["size_bytes"], memo["unpacked_bytes"]
        name = str(memo["created_by"])
    except (KeyError, WainError):
        return None
    if not isinstance(size_bytes, int) or not isinstance(unpacked_bytes, int) or not store.has(digest):
        return None
    return stored_layer(
        digest,
        diff_id=diff_id,
        size_bytes=size_bytes,
        store=store,
        unpacked_bytes=unpacked_bytes,
        created_by=created_by or name,
        annotations={RECIPE_KEY: key},
    )


def remember_layer(key: Digest, layer: Layer, *, store: Store) -> None:
    """Makes the store remember a layer that it has under a recipe key, for `remembered_layer`."""
    store.put_memo(
        _MEMO,
        key,
        {
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size_bytes": layer.size_bytes,
            "unpacked_bytes": layer.unpacked_bytes or 0,
            "created_by": layer.created_by,
        },
        [layer.digest],
    )


def wheel_layer(
    wheels: Sequence[Wheel],
    scheme: Scheme,
    *,
    store: Store,
    folders: Mapping[str, Folder] | None = None,
    mtime: int = ustar.ZIP_EPOCH,
    threads: int | None = None,
) -> Layer:
    """The layer of these wheels, installed by the scheme: a function of its arguments alone.

    It is in the store afterwards, and remembered there. Each wheel's bytes have been compared with its digest.

    :param folders: modes and owners of folders that the base has, by path; others are 0755 and root's.
    :param mtime: of every entry, in seconds since the epoch; another one than the default for a project's own
        wheel alone, whose files change while their names and sizes stay.
    :raises HashMismatch: when a wheel's bytes are not its digest's.
    :raises WheelError: when a wheel is damaged, hostile, or breaks the specification.
    :raises InstallError: when wheels cannot be installed together.
    """
    key = wheel_layer_key((wheel.digest for wheel in wheels), scheme, folders=folders, mtime=mtime)
    if known := remembered_layer(key, store=store):
        return known
    plan, spliced = _spliced(wheels, scheme, store, folders or {}, mtime, threads)
    for collision in plan.collisions:
        log.warning("%s", collision)
    layer = stored_layer(
        spliced.digest,
        diff_id=spliced.diff_id,
        size_bytes=spliced.size_bytes,
        store=store,
        unpacked_bytes=plan.unpacked_bytes,
        created_by=describe(plan.wheels),
        annotations={RECIPE_KEY: key},
    )
    remember_layer(key, layer, store=store)
    return layer


def describe(wheels: Sequence[Wheel]) -> str:
    """What `docker history` says of a layer of these wheels.

    >>> describe([])
    'wain: 0 wheels: '
    """
    names = [f"{wheel.metadata.name} {wheel.version}" for wheel in wheels]
    return f"wain: {names[0]}" if len(names) == 1 else f"wain: {len(names)} wheels: {', '.join(names)}"


def _spliced(
    wheels: Sequence[Wheel],
    scheme: Scheme,
    store: Store,
    folders: Mapping[str, Folder],
    mtime: int,
    threads: int | None,
) -> tuple[InstallPlan, splice.Spliced]:
    corrections: dict[tuple[str, str], str] = {}
    note = ", ".join(sorted(wheel.filename for wheel in wheels))[:200]
    try:
        while True:
            verification = splice.Verification(wheels)
            with store.writer(kind="layer", note=note) as writer:
                try:
                    plan = plan_install(wheels, scheme, corrections=corrections)
                    spliced = splice.assemble(_plan_parts(plan, folders, mtime), writer.file.write, threads=threads)
                finally:
                    verification.join()
                if not spliced.wrong_rows:
                    writer.commit(known=spliced.digest)
                    return plan, spliced
            # RECORD stands before the files it speaks of, so what it says must be known when it is written.
            for wheel in plan.wheels:
                if wrong := sorted(path for name, path in spliced.wrong_rows if name == wheel.name):
                    what = names_of(wrong)
                    log.warning("%s: RECORD has a wrong hash of %s; right ones are written", wheel.filename, what)
            corrections |= spliced.wrong_rows
    except WainError:
        # A file with other bytes than promised is damaged in many ways; the cause is what to tell.
        for wheel in wheels:
            wheel.verify()
        raise


def _plan_parts(plan: InstallPlan, folders: Mapping[str, Folder], mtime: int) -> Iterator[splice.Part]:
    heads = []
    for path in plan.folders:
        _check_name(path)
        folder = folders.get(path, _PLAIN)
        heads.append(header(path, "directory", mode=folder.mode, mtime=mtime, uid=folder.uid, gid=folder.gid))
    for file in plan.files:
        if ".wh." in file.path:
            _check_name(file.path)
    files = (
        (header(file.path, "file", mode=file.mode, size_bytes=file.size_bytes, mtime=mtime), file)
        for file in plan.files
    )
    return splice.parts_of(files, heads)


def files_layer(
    entries: Iterable[Entry],
    *,
    store: Store,
    created_by: str,
    kind: str = "layer",
    annotations: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Layer:
    """The layer of these entries: a function of them alone, whatever order they come in.

    In it are whiteouts, folders, links and small files, large files, hard links, each sorted by path. It is in the
    store afterwards.

    :raises ImageError: when a path is not within the root, stands twice, or begins a name with `.wh.`; when a
        file's bytes are not as many as its entry says; when a hard link's target is not among the files.
    """
    folders: list[Entry] = []
    small: list[Entry] = []
    large: list[Entry] = []
    links: list[Entry] = []
    whiteouts: list[Entry] = []
    seen: set[str] = set()
    for entry in sorted(entries, key=attrgetter("path")):
        _check_name(entry.path)
        if entry.kind in ("whiteout", "opaque"):
            whiteouts.append(_whiteout(entry))
            continue
        if entry.path in seen:
            raise _bad_entry(f"{entry.path!r} stands in a layer twice")
        seen.add(entry.path)
        if entry.kind == "directory":
            folders.append(entry)
        elif entry.kind == "hardlink":
            links.append(entry)
        elif entry.kind in ("file", "symlink"):
            (large if entry.size_bytes >= splice.SMALL_BYTES else small).append(entry)
        else:
            raise _bad_entry(f"{entry.path!r} is a {entry.kind}, which no layer of wain has")
    for link in links:
        if link.target not in seen:
            raise _bad_entry(f"{link.path!r} links to {link.target!r}, which is not in its layer")
    with store.writer(kind=kind, note=created_by[:200]) as writer:
        parts = _entry_parts([*whiteouts, *folders, *small], large, links)
        spliced = splice.assemble(parts, writer.file.write, threads=threads)
        writer.commit(known=spliced.digest)
    return stored_layer(
        spliced.digest,
        diff_id=spliced.diff_id,
        size_bytes=spliced.size_bytes,
        store=store,
        unpacked_bytes=sum(entry.size_bytes for entry in (*small, *large)),
        created_by=created_by,
        annotations=annotations or {},
    )


def stored_layer(
    digest: Digest,
    *,
    diff_id: Digest,
    size_bytes: int,
    store: Store,
    media_type: str = LAYER_GZIP,
    unpacked_bytes: int | None = None,
    created_by: str = "",
    annotations: Mapping[str, str] | None = None,
) -> Layer:
    """A blob of the store as a layer."""
    return Layer(
        digest=digest,
        diff_id=diff_id,
        size_bytes=size_bytes,
        source=lambda: store.reader(digest),
        media_type=media_type,
        unpacked_bytes=unpacked_bytes,
        created_by=created_by,
        annotations=annotations or {},
    )


def compressed_layer(layer: Layer, store: Store) -> Layer:
    """An uncompressed layer as a compressed blob of the store, the same bytes for the same tar; others as they are.

    :raises HashMismatch: when the tar is not what its diff ID says.
    """
    if layer.media_type != LAYER_TAR:
        return layer
    key = recipe_key({"recipe": "compressed-layer/1", "compressor": gzips.COMPRESSOR, "diff_id": layer.diff_id})
    known = remembered_layer(key, store=store, created_by=layer.created_by)
    if known is not None:
        return replace(known, annotations=layer.annotations)
    unpacked_bytes = 0
    with store.writer(kind="layer", note=layer.created_by[:200]) as writer:
        inner = hashlib.sha256()
        with layer.open() as stream:
            while data := stream.read(_MEMBER_BYTES):
                inner.update(data)
                unpacked_bytes += len(data)
                writer.write(gzips.gzip_member(data))
        if inner.hexdigest() != layer.diff_id.hex:
            raise HashMismatch(f"layer {layer.digest} is not what its diff ID says", hint="Take the image again.")
        size_bytes = writer.size_bytes
        digest = writer.commit()
    memo: dict[str, JSON] = {
        "digest": digest,
        "diff_id": layer.diff_id,
        "size_bytes": size_bytes,
        "unpacked_bytes": unpacked_bytes,
        "created_by": layer.created_by,
    }
    store.put_memo(_MEMO, key, memo, [digest])
    return stored_layer(
        digest,
        diff_id=layer.diff_id,
        size_bytes=size_bytes,
        store=store,
        unpacked_bytes=unpacked_bytes,
        created_by=layer.created_by,
        annotations=layer.annotations,
    )


_PLAIN = Folder()


def _whiteout(entry: Entry) -> Entry:
    """The empty file that stands for a removal. (Readers differ where it comes after what it must not remove.)"""
    folder, slash, name = entry.path.rpartition("/")
    if entry.kind == "opaque":
        return Entry(path=f"{entry.path}/.wh..wh..opq", kind="file")
    return Entry(path=f"{folder}{slash}.wh.{name}", kind="file")


def _entry_parts(first: Sequence[Entry], large: Sequence[Entry], last: Sequence[Entry]) -> Iterator[splice.Part]:
    held: list[bytes | Entry] = []
    held_bytes = 0
    for entry in first:
        held += (_entry_header(entry), entry) if entry.size_bytes else (_entry_header(entry),)
        held_bytes += 512 + entry.size_bytes
        if held_bytes >= splice.SHARED_BYTES:
            yield _Entries(held)
            held, held_bytes = [], 0
    for entry in large:
        yield _Entries([*held, _entry_header(entry)])
        yield splice.Made(entry_chunks(entry), entry.size_bytes, _wrong_size(entry))
        held = [bytes(padding(entry.size_bytes))]
    yield _Entries([*held, *map(_entry_header, last), END])


class _Entries:
    """Headers and small files of entries, in one gzip member."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[bytes | Entry]) -> None:
        self._pieces = pieces

    def run(self, emit: splice.Emit) -> None:
        parts = []
        for piece in self._pieces:
            if isinstance(piece, bytes):
                parts.append(piece)
                continue
            data = b"".join(entry_chunks(piece)())
            if len(data) != piece.size_bytes:
                raise _wrong_size(piece)()
            parts += (data, bytes(padding(len(data))))
        splice.Shared([b"".join(parts)]).run(emit)


def entry_chunks(entry: Entry) -> Callable[[], Iterator[bytes]]:
    """Reads a file's bytes, and one byte more where there are more than the entry says."""

    def chunks() -> Iterator[bytes]:
        if entry.open_data is None:
            return
        left = entry.size_bytes + 1
        with entry.open_data() as stream:
            while left > 0 and (chunk := stream.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    return chunks


def _entry_header(entry: Entry) -> bytes:
    return header(
        entry.path,
        entry.kind,
        mode=entry.mode,
        size_bytes=entry.size_bytes if entry.kind == "file" else 0,
        mtime=entry.mtime,
        uid=entry.uid,
        gid=entry.gid,
        target=entry.target,
        xattrs=entry.xattrs,
    )


def _wrong_size(entry: Entry) -> Callable[[], ImageError]:
    return lambda: ImageError(
        f"{entry.path} does not have the {entry.size_bytes} bytes that it had",
        hint="It changed while it was read; run the same again.",
    )


def _check_name(path: str) -> None:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts) or "\0" in path:
        raise _bad_entry(f"{path[:200]!r} cannot stand in a layer")


def _bad_entry(detail: str) -> ImageError:
    return ImageError(detail, hint="Rename it, or leave it out of the image.")
