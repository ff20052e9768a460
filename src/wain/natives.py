"""Shared libraries that wheels need and an image lacks, with who needs them and which Debian package has them.

Sources: ld.so(8), "DESCRIPTION" for the search order; Debian policy, 8.1, for how packages of libraries are named.
"""

from __future__ import annotations

import logging
import mmap
import posixpath
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from wain.bases import BaseFacts
from wain.digest import Digest
from wain.elf import ElfFile, parse_elf
from wain.oci import JSON
from wain.store import Store, recipe_key
from wain.wheels import Wheel
from wain.zips import Member

logger = logging.getLogger(__name__)

_RECIPE = "natives/1"
_MAX_HELD_BYTES = 16 << 20
MAX_READ_BYTES = 128 << 20
"""Larger files count by their name alone: reading them would double the time of a build, and who ships such ones
(torch, CUDA's libraries) ships what they need."""

# The driver brings these at run time; a container's runtime mounts them.
_FROM_THE_DRIVER = re.compile(
    r"lib(cuda|nvcuvid|nvoptix|nvidia-[\w-]+|cudadebugger|hsa-runtime64|amdhip64|ze_loader)\.so(\.\d+)*"
)
# musl's loader has these in itself, whoever asks for them.
_IN_MUSL = re.compile(r"lib(c|pthread|rt|m|dl|util|xnet)\.so(\.\d+)?|libc\.musl-.*")
_LOADERS = re.compile(r"ld-linux[\w.-]*|ld64\.so\.\d|linux-vdso.*")

# Where the policy's rule for names does not hold.
_PACKAGES = {
    "libGLESv2.so.2": "libgles2",
    "libGLU.so.1": "libglu1-mesa",
    "libOSMesa.so.8": "libosmesa6",
    "libOpenCL.so.1": "ocl-icd-libopencl1",
    "libatk-1.0.so.0": "libatk1.0-0",
    "libatk-bridge-2.0.so.0": "libatk-bridge2.0-0",
    "libatspi.so.0": "libatspi2.0-0",
    "libbrotlidec.so.1": "libbrotli1",
    "libbz2.so.1.0": "libbz2-1.0",
    "libcrypto.so.1.1": "libssl1.1",
    "libcrypto.so.3": "libssl3",
    "libcurl-gnutls.so.4": "libcurl3-gnutls",
    "libdl.so.2": "libc6",
    "libgdk-3.so.0": "libgtk-3-0",
    "libgeos_c.so.1": "libgeos-c1v5",
    "libgio-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgmodule-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libharfbuzz.so.0": "libharfbuzz0b",
    "libjack.so.0": "libjack-jackd2-0",
    "libjpeg.so.62": "libjpeg62-turbo",
    "libm.so.6": "libc6",
    "libc.so.6": "libc6",
    "libpthread.so.0": "libc6",
    "librt.so.1": "libc6",
    "libutil.so.1": "libc6",
    "libmpi.so.40": "libopenmpi3",
    "libnspr4.so": "libnspr4",
    "libnsl.so.1": "libnsl2",
    "libnss3.so": "libnss3",
    "libnssutil3.so": "libnss3",
    "libsmime3.so": "libnss3",
    "libsnappy.so.1": "libsnappy1v5",
    "libxml2.so.2": "libxml2",
    "libxslt.so.1": "libxslt1.1",
    "libz.so.1": "zlib1g",
}
# Packages that got another name with 64-bit time_t, from Debian 13 on.
_RENAMED_64 = frozenset(
    (
        "libaio1",
        "libasound2",
        "libatk-bridge2.0-0",
        "libatk1.0-0",
        "libatspi2.0-0",
        "libcups2",
        "libcurl3-gnutls",
        "libcurl4",
        "libdb5.3",
        "libelf1",
        "libevent-2.1-7",
        "libglib2.0-0",
        "libgnutls30",
        "libgtk-3-0",
        "libmagic1",
        "libopenmpi3",
        "libpng16-16",
        "librdmacm1",
        "libreadline8",
        "libssl3",
        "libtirpc3",
        "libxt6",
    )
)


class NativeFile(Struct, frozen=True, kw_only=True):
    """An ELF file of a wheel."""

    path: str
    """Where it is installed, relative to site-packages; may begin with `../`."""
    elf: ElfFile


class MissingLibrary(Struct, frozen=True, kw_only=True):
    """A library that a distribution's files link to, and neither the base nor a wheel has; or too old a one."""

    distribution: str
    """Normalised name."""
    library: str
    """The soname."""
    files: tuple[str, ...]
    """The files that need it, relative to site-packages."""
    versions: tuple[str, ...] = field(default=())
    """Symbol versions that the base's library lacks; empty where there is no library at all."""
    package: str | None = None
    """The Debian package that has it, by Debian's rule for names; None where the rule gives none."""

    def __str__(self) -> str:
        file = self.files[0] + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")
        if self.versions:
            return (
                f"{self.distribution}: {file} needs {', '.join(self.versions)} of {self.library}; the base's is older"
            )
        return f"{self.distribution}: {file} needs {self.library}, which neither the base nor a wheel has"

    @property
    def hint(self) -> str:
        """What to do about it."""
        if self.versions:
            return "Use a newer base, or an older version of the distribution."
        if self.package is None:
            return "Use a base that has it; without it what needs it fails to load."
        return f'The Debian package {self.package} has it: packages = ["{self.package}"], or a base that has it.'


def natives_of(wheel: Wheel, store: Store | None) -> tuple[NativeFile, ...]:
    """The ELF files of a wheel and what they say; read once for each wheel, then remembered.

    The wheel's user verifies it.

    :raises WheelError: when a member is damaged.
    """
    if store is not None and (known := known_natives(wheel.digest, store)) is not None:
        return known
    files = tuple(
        NativeFile(path=_installed_path(member.path), elf=elf)
        for member in wheel.members
        if _may_be_elf(member) and (elf := _read_elf(wheel, member)) is not None
    )
    if store is not None:
        value: JSON = [[file.path, _elf_to_json(file.elf)] for file in files]
        store.put_memo("natives", _key(wheel.digest), {"files": value})
    return files


def known_natives(wheel: Digest, store: Store) -> tuple[NativeFile, ...] | None:
    """What is remembered of a wheel's ELF files, without the wheel; None where nothing is."""
    memo = store.memo("natives", _key(wheel))
    if memo is None or not isinstance(entries := memo.get("files"), list):
        return None
    files = []
    for entry in entries:
        match entry:
            case [str(path), dict(value)]:
                files.append(NativeFile(path=path, elf=_elf_from_json(value)))
            case _:
                return None
    return tuple(files)


def missing_libraries(facts: BaseFacts, natives: Mapping[str, Sequence[NativeFile]]) -> tuple[MissingLibrary, ...]:
    """What would fail to load on a base, of the ELF files of all distributions together, by distribution.

    A library that any of the wheels brings counts as there, also where the search path does not lead to it:
    distributions load such libraries themselves, before they are needed. Files for another machine or another C
    library, and what a graphics driver brings at run time, are left out.

    :param natives: normalised name of a distribution -> its files.
    """
    brought: dict[str, list[ElfFile]] = {}
    for files in natives.values():
        for file in files:
            for name in {file.elf.soname, posixpath.basename(file.path)} - {""}:
                brought.setdefault(name, []).append(file.elf)
    missing: list[MissingLibrary] = []
    for distribution in sorted(natives):
        wanting: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for file in natives[distribution]:
            if _is_foreign(file.elf, facts):
                continue
            for library in file.elf.needed:
                lacking = _lacking(library, file.elf.requires.get(library, ()), facts, brought)
                if lacking is not None:
                    wanting.setdefault((library, lacking), []).append(file.path)
        for (library, versions), paths in sorted(wanting.items()):
            missing.append(
                MissingLibrary(
                    distribution=distribution,
                    library=library,
                    files=tuple(sorted(paths)),
                    versions=versions,
                    package=None if versions else debian_package(library, facts),
                )
            )
    return tuple(missing)


def advice(missing: Sequence[MissingLibrary]) -> tuple[str, ...]:
    """One line for each distribution: what it lacks and what brings it."""
    lines = []
    for name in sorted({item.distribution for item in missing}):
        absent = [item for item in missing if item.distribution == name and not item.versions]
        if absent:
            line = f"{name} needs {', '.join(item.library for item in absent)}, which neither the base nor a wheel has"
            packages = sorted({item.package for item in absent if item.package})
            if packages:
                quoted = ", ".join(f'"{package}"' for package in packages)
                line += f"; packages = [{quoted}] brings {'it' if len(absent) == 1 else 'them'} on the built-in base"
            lines.append(line)
        lines += [f"{item}. {item.hint}" for item in missing if item.distribution == name and item.versions]
    return tuple(lines)


def debian_package(library: str, facts: BaseFacts | None = None) -> str | None:
    """The Debian package of a library, by a table and Debian's rule for names.

    >>> debian_package("libGL.so.1"), debian_package("libglib-2.0.so.0"), debian_package("libusb-1.0.so.0")
    ('libgl1', 'libglib2.0-0', 'libusb-1.0-0')
    """
    package = _PACKAGES.get(library)
    if package is None:
        if match := re.fullmatch(r"(lib[\w.+-]+?)\.so\.(\d+)(\.\d+)*", library):
            name = match[1].lower().replace("_", "-")
            if name.startswith("libpython"):
                package = name
            else:
                package = f"{name}-{match[2]}" if name[-1].isdigit() else name + match[2]
        elif match := re.fullmatch(r"(lib[\w+-]+?)-?(\d[\d.]*)\.so", library):
            package = f"{match[1]}{match[2]}".lower().replace("_", "-")
    if package in _RENAMED_64 and facts is not None and facts.os_id == "debian":
        major = facts.os_version.partition(".")[0]
        if major.isdigit() and int(major) >= 13:
            package += "t64"
    return package


def _lacking(
    library: str, required: Iterable[str], facts: BaseFacts, brought: Mapping[str, Sequence[ElfFile]]
) -> tuple[str, ...] | None:
    """None where the library is there; else the symbol versions that it lacks, none where it is not there."""
    if _LOADERS.fullmatch(library) or _FROM_THE_DRIVER.fullmatch(library):
        return None
    if facts.libc == "musl" and _IN_MUSL.fullmatch(library):
        return None
    own = brought.get(posixpath.basename(library))
    if own is not None:
        return None  # whoever brings a library brings the one it was linked with
    there = facts.libraries.get(library)
    if there is None:
        return ()
    if not there.provides:
        return None  # the loader checks no versions against a library that has none
    return tuple(sorted(set(required) - set(there.provides))) or None


def _is_foreign(elf: ElfFile, facts: BaseFacts) -> bool:
    """Whether a file is for another machine or C library: wheels of programs bring such beside their own."""
    if elf.architecture != facts.platform.architecture:
        return True
    is_musl = "musl" in elf.interpreter or any("musl" in library for library in elf.needed)
    is_android = elf.interpreter.startswith("/system/") or "libc.so" in elf.needed
    if facts.libc == "musl":
        return "libc.so.6" in elf.needed
    return is_musl or is_android


def _may_be_elf(member: Member) -> bool:
    name = member.path.rpartition("/")[2]
    if member.size_bytes < 64:
        return False
    is_program = "/bin/" in f"/{member.path}" or ".data/scripts/" in member.path
    return ".so" in name or member.is_executable or (is_program and "." not in name)


def _read_elf(wheel: Wheel, member: Member) -> ElfFile | None:
    chunks = wheel.chunks(member)
    head = next(chunks, b"")
    while len(head) < 4 and (more := next(chunks, b"")):
        head += more
    if head[:4] != b"\x7fELF":
        return None
    if member.size_bytes > MAX_READ_BYTES:
        return ElfFile(architecture=None)
    if member.size_bytes <= _MAX_HELD_BYTES:
        return parse_elf(head + b"".join(chunks))
    with tempfile.TemporaryFile(prefix="wain-elf-") as file:
        file.write(head)
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            return parse_elf(mapped)


def _installed_path(path: str) -> str:
    """Where a member goes, relative to site-packages in a virtual environment."""
    top, _, rest = path.partition("/")
    kind, _, inner = rest.partition("/")
    if not top.endswith(".data") or not inner:
        return path
    if kind in ("purelib", "platlib"):
        return inner
    return f"../../../{'bin/' if kind == 'scripts' else ''}{inner}"


def _key(wheel: Digest) -> Digest:
    return recipe_key({"recipe": _RECIPE, "wheel": str(wheel)})


def _elf_to_json(elf: ElfFile) -> dict[str, JSON]:
    return {
        "architecture": elf.architecture,
        "interpreter": elf.interpreter,
        "soname": elf.soname,
        "needed": [*elf.needed],
        "search-path": [*elf.search_path],
        "requires": {library: [*versions] for library, versions in elf.requires.items()},
        "provides": [*elf.provides],
    }


def _elf_from_json(value: Mapping[str, JSON]) -> ElfFile:
    def words(item: JSON) -> tuple[str, ...]:
        return tuple(word for word in item if isinstance(word, str)) if isinstance(item, list) else ()

    requires = value.get("requires")
    architecture = value.get("architecture")
    return ElfFile(
        architecture=architecture if isinstance(architecture, str) else None,
        interpreter=str(value.get("interpreter", "")),
        soname=str(value.get("soname", "")),
        needed=words(value.get("needed")),
        search_path=words(value.get("search-path")),
        requires={name: words(item) for name, item in requires.items()} if isinstance(requires, dict) else {},
        provides=words(value.get("provides")),
    )
