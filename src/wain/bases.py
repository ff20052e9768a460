"""Base facts: what a build must know of a base image, read from its layers once.

Sources: PEP 405 (virtual environments), PEP 668 (externally managed environments), Python's sysconfig
installation schemes and Debian's changes to them, ld.so(8).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from wain.digest import Digest
from wain.errors import ImageError, PythonError
from wain.oci import JSON, Reader, canonical_json
from wain.platforms import Platform, PythonVersion, Target
from wain.probes import (
    InstalledDistribution,
    PipPaths,
    SharedLibrary,
    find_distributions,
    find_folders,
    find_libc,
    find_libraries,
    find_pip_paths,
    find_python,
    full_version,
    is_kept,
    os_release,
    small_text,
)
from wain.records import Record
from wain.rootfs import Rootfs

if TYPE_CHECKING:
    from wain.image import Image
    from wain.store import Store

logger = logging.getLogger(__name__)

FACTS_VERSION = 1
"""Changes with whatever changes the facts that the same image gives; it is part of the memo's key."""
LABEL = "dev.wain.base-facts"
"""Label of an image made by wain: its base's facts, see `BaseFacts.to_label`."""
MAX_LABEL_BYTES = 16 << 10


class BaseFacts(Record, frozen=True, kw_only=True):
    """What must be known of a base image to build on it. Paths are relative to the root but where told."""

    unshown: ClassVar = ("links", "directories", "distributions", "libraries")

    config_digest: Digest
    """Of the image that these facts are about."""
    platform: Platform
    interpreter: str
    """The interpreter's own path, absolute, links resolved: `/usr/local/bin/python3.13`."""
    command: str
    """The absolute path that `python3` (or else `python`) leads to on PATH, before links are resolved."""
    python: PythonVersion
    abi: str
    libc: str
    """`glibc` or `musl`."""
    libc_version: tuple[int, int]
    prefix: str
    """`sys.prefix`, absolute."""
    pip: PipPaths
    externally_managed: bool
    """Whether pip refuses to install there: PEP 668."""
    is_virtual: bool
    """Whether `command` is a virtual environment's."""
    passwd: str
    """The whole of /etc/passwd; empty where there is none."""
    group: str
    os_id: str
    """`ID` of os-release, `debian`; empty where there is none."""
    os_version: str
    links: Mapping[str, str]
    """Symbolic links that lead to directories -> where they lead to in the end."""
    directories: Mapping[str, tuple[int, int, int]]
    """Directories that are not root's with mode 0755 -> mode, uid, gid; the root itself is the empty path."""
    distributions: tuple[InstalledDistribution, ...]
    libraries: Mapping[str, SharedLibrary]
    """Soname or file name -> the library."""

    @property
    def target(self) -> Target:
        """The environment that wheels must fit on this base."""
        return Target(
            platform=self.platform,
            python=self.python,
            abi=self.abi,
            libc=self.libc,
            libc_version=self.libc_version,
        )

    def resolve(self, path: str) -> str:
        """Where a path of the base really is: links to directories on the way are followed.

        The last part is followed too, where it is such a link.
        """
        done: list[str] = []
        for part in path.strip("/").split("/"):
            if part in ("", "."):
                continue
            done.append(part)
            target = self.links.get("/".join(done))
            if target is not None:
                done = target.split("/") if target else []
        return "/".join(done)

    def directory(self, path: str) -> tuple[int, int, int]:
        """Mode, uid and gid of a directory of the base; what a new one has where there is none."""
        return self.directories.get(path.strip("/"), (0o755, 0, 0))

    def user(self, uid: int) -> str | None:
        """The name of the first user with this uid."""
        return _entry_name(self.passwd, uid)

    def group_name(self, gid: int) -> str | None:
        """The name of the first group with this gid."""
        return _entry_name(self.group, gid)

    def to_json(self) -> dict[str, JSON]:
        """The facts as JSON: the same facts give the same canonical JSON."""
        return {
            "abi": self.abi,
            "command": self.command,
            "config": str(self.config_digest),
            "directories": {path: list(triple) for path, triple in self.directories.items()},
            "distributions": [[item.name, item.version, item.location] for item in self.distributions],
            "externally-managed": self.externally_managed,
            "group": self.group,
            "interpreter": self.interpreter,
            "libc": self.libc,
            "libc-version": list(self.libc_version),
            "libraries": {name: [library.directory, *library.provides] for name, library in self.libraries.items()},
            "links": dict(self.links),
            "os": [self.os_id, self.os_version],
            "passwd": self.passwd,
            "pip": [getattr(self.pip, name) for name in PipPaths.__struct_fields__],
            "platform": str(self.platform),
            "prefix": self.prefix,
            "python": str(self.python),
            "version": FACTS_VERSION,
            "virtual": self.is_virtual,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JSON]) -> BaseFacts:
        """:raises ImageError: when it is not what `to_json` gives."""
        reader = Reader(value, "base facts")
        if value.get("version") != FACTS_VERSION:
            raise ImageError(
                f"base facts of version {value.get('version')!r}, not {FACTS_VERSION}",
                hint="They were written by another version of wain; the base's layers are read again.",
            )
        try:
            purelib, platlib, scripts, headers, data = reader.texts("pip") or ()
            os_id, os_version = reader.texts("os") or ()
            libc_major, libc_minor = _integers(value.get("libc-version"), 2)
            return cls(
                config_digest=Digest(reader.text("config")),
                platform=Platform.parse(reader.text("platform")),
                interpreter=reader.text("interpreter"),
                command=reader.text("command"),
                python=PythonVersion.parse(reader.text("python")),
                abi=reader.text("abi"),
                libc=reader.text("libc"),
                libc_version=(libc_major, libc_minor),
                prefix=reader.text("prefix"),
                pip=PipPaths(purelib=purelib, platlib=platlib, scripts=scripts, headers=headers, data=data),
                externally_managed=reader.flag("externally-managed"),
                is_virtual=reader.flag("virtual"),
                passwd=reader.text("passwd"),
                group=reader.text("group"),
                os_id=os_id,
                os_version=os_version,
                links=reader.text_map("links"),
                directories={path: _triple(triple) for path, triple in reader.object("directories").items()},
                distributions=tuple(
                    InstalledDistribution(name=name, version=version, location=location)
                    for name, version, location in map(_texts, _list(value.get("distributions")))
                ),
                libraries={
                    name: SharedLibrary(directory=directory, provides=tuple(provides))
                    for name, (directory, *provides) in (
                        (name, _texts(item)) for name, item in reader.object("libraries").items()
                    )
                },
            )
        except (ValueError, PythonError) as error:
            raise ImageError(f"base facts are malformed: {error}", hint="The base's layers are read again.") from error

    def to_label(self) -> str | None:
        """The facts as text for the label `LABEL`; `None` where they are larger than a label should be."""
        text = base64.b64encode(zlib.compress(canonical_json(self.to_json()), 9)).decode()
        return text if len(text) <= MAX_LABEL_BYTES else None

    @classmethod
    def from_label(cls, text: str) -> BaseFacts:
        """:raises ImageError: when it is not what `to_label` gives."""
        try:
            inflater = zlib.decompressobj()
            data = inflater.decompress(base64.b64decode(text, validate=True), 4 << 20)
            value = json.loads(data)
        except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
            raise ImageError(
                f"the label {LABEL} is malformed: {error}", hint="The base's layers are read again."
            ) from error
        if not isinstance(value, dict):
            raise ImageError(f"the label {LABEL} is malformed", hint="The base's layers are read again.")
        return cls.from_json(value)


def base_facts(image: Image, store: Store | None, *, earlier: Iterable[Image] = ()) -> BaseFacts:
    """The facts of a base: from the store, else from an earlier image made on it, else from its layers.

    :param earlier: images made by wain before, whose label may tell of this very base; it is believed where it
        names the base's config by digest, so name only images that are trusted as the base is.
    :raises BaseError: when it has no Python, or one that nothing can be built for.
    :raises PythonError: when its Python is free-threaded, a debug build, or no CPython.
    :raises ImageError: when a layer is damaged.
    """
    config_digest = Digest.of(image.config_bytes)
    key = Digest.of(canonical_json({"kind": "base-facts", "version": FACTS_VERSION, "config": str(config_digest)}))
    if store is not None and (memo := store.memo("base-facts", key)) is not None:
        try:
            return BaseFacts.from_json(memo)
        except ImageError as error:
            logger.debug("remembered base facts are not usable: %s", error.message)
            store.delete_memo("base-facts", key)
    facts = _labelled(earlier, config_digest) or read_base_facts(image)
    if store is not None:
        store.put_memo("base-facts", key, facts.to_json())
    return facts


def _labelled(earlier: Iterable[Image], config_digest: Digest) -> BaseFacts | None:
    for image in earlier:
        label = image.config.runtime.labels.get(LABEL)
        if label is None:
            continue
        try:
            facts = BaseFacts.from_label(label)
        except ImageError as error:
            logger.debug("%s", error.message)
            continue
        if facts.config_digest == config_digest:
            return facts
    return None


def read_base_facts(image: Image) -> BaseFacts:
    """The facts of a base from its layers, each of which is read once. Errors as `base_facts` has them."""
    environment = image.config.runtime.environment()
    rootfs = Rootfs.of(image.layers, keep=is_kept, elf=True)
    python = find_python(rootfs, environment, image.platform)
    libc, libc_version = find_libc(rootfs, python)
    libraries = find_libraries(rootfs, environment, libc)
    release = os_release(rootfs)
    links, directories = find_folders(rootfs)
    pip, site_folders = find_pip_paths(rootfs, python)
    return BaseFacts(
        config_digest=Digest.of(image.config_bytes),
        platform=image.platform,
        interpreter="/" + python.interpreter,
        command=python.command,
        python=full_version(rootfs, python, environment, libraries),
        abi=f"cp3{python.minor}",
        libc=libc,
        libc_version=libc_version,
        prefix="/" + python.prefix,
        pip=pip,
        externally_managed=python.venv is None and rootfs.find(f"{python.stdlib}/EXTERNALLY-MANAGED") is not None,
        is_virtual=python.venv is not None,
        passwd=small_text(rootfs, "etc/passwd"),
        group=small_text(rootfs, "etc/group"),
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        links=links,
        directories=directories,
        distributions=tuple(find_distributions(rootfs, site_folders)),
        libraries=libraries,
    )


def _entry_name(text: str, number: int) -> str | None:
    for line in text.splitlines():
        words = line.split(":")
        if len(words) >= 3 and words[2] == str(number):
            return words[0]
    return None


def _integers(value: JSON, count: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError("a list of numbers is wanted")
    numbers = tuple(item for item in value if isinstance(item, int))
    if len(numbers) != count:
        raise ValueError("a list of numbers is wanted")
    return numbers


def _triple(value: JSON) -> tuple[int, int, int]:
    mode, uid, gid = _integers(value, 3)
    return mode, uid, gid


def _list(value: JSON) -> list[JSON]:
    if not isinstance(value, list):
        raise ValueError("a list is wanted")  # noqa: TRY004 - all of these are one kind of damage
    return value


def _texts(value: JSON) -> tuple[str, ...]:
    texts = tuple(item for item in _list(value) if isinstance(item, str))
    if len(texts) != len(_list(value)):
        raise ValueError("a list of strings is wanted")
    return texts
