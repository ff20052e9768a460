"""The files of a built-in base: what packages bring, and what wain makes in place of their scripts.

Sources: Debian policy; the file system hierarchy standard; deb-postinst(5); ldconfig(8); passwd(5); nsswitch.conf(5).
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field
from msgspec.structs import replace

from wain.deb import LARGE_BYTES, Control, Deb
from wain.debian_packages import parse_relations
from wain.debian_scripts import Alternative, script_effects
from wain.elf import ElfFile, parse_elf
from wain.errors import DebianError
from wain.layers import Entry
from wain.ld_cache import Library, ld_cache

_MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32", "libo32")
_MAX_LINKS = 40
_MAX_LIBRARY_BYTES = 512 << 20

# What Debian's own images for containers leave out too, and what only desktops and debuggers read.
_LEFT_OUT = re.compile(
    r"usr/share/(man|info|lintian|linda|locale|groff|bug|doc-base|menu|gtk-doc|help|omf|gdb|gcc(-[0-9.]+)?)(/.*)?"
    r"|usr/share/doc/[^/]+/(?!copyright|NOTICE).*"
    r"|usr/share/(applications|pixmaps|binfmts|apport|reportbug|base-files|ca-certificates)(/.*)?"
    r"|usr/share/python3(/.*)?|usr/bin/py3(compile|clean|versions)"
    r"|usr/share/zoneinfo/right(/.*)?"
    r"|usr/sbin/update-ca-certificates|etc/ca-certificates(/.*)?|etc/update-motd\.d(/.*)?|boot"
)
# libc-bin is there for ldconfig, which `ctypes.util.find_library` asks, getent and the locale; the rest are tools to
# make locales and time zones, and scripts for a shell that is not there.
_LIBC_BIN_KEPT = re.compile(
    r"usr/sbin/ldconfig|usr/bin/getent|usr/bin/ld\.so|etc/.*|usr/lib/locale/.*|usr/share/(libc-bin|doc)/.*"
)

# The C library's own iconv converts between the encodings that everybody uses; of the others, which Python has in
# its own codecs, there are eight megabytes. The same set as other distributions keep in their C library's package.
_CONVERTER = re.compile(r"usr/lib/[^/]+/gconv/([^/]+)\.so")
_CONVERTERS_KEPT = frozenset("ANSI_X3.110 CP1252 ISO8859-1 ISO8859-15 UNICODE UTF-16 UTF-32 UTF-7".split())

_USERS = "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "root:x:0:\ntty:x:5:\nmail:x:8:\nshadow:x:42:\nutmp:x:43:\nstaff:x:50:\nnogroup:x:65534:\n"
_NETWORKS = "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n"
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"

_DIRECTORIES: Mapping[str, int] = {
    "dev": 0o755, "etc": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o755,
    "root": 0o700, "run": 0o755, "run/lock": 0o1777, "srv": 0o755, "sys": 0o755, "tmp": 0o1777, "usr": 0o755,
    "usr/bin": 0o755, "usr/lib": 0o755, "usr/local": 0o755, "usr/local/bin": 0o755, "usr/local/etc": 0o755,
    "usr/local/lib": 0o755, "usr/local/sbin": 0o755, "usr/local/share": 0o755, "usr/sbin": 0o755,
    "usr/share": 0o755, "var": 0o755, "var/cache": 0o755, "var/lib": 0o755, "var/lib/dpkg": 0o755,
    "var/lib/dpkg/status.d": 0o755, "var/log": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_LINKS: Mapping[str, str] = {
    "var/run": "/run",
    "var/lock": "/run/lock",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
    "usr/lib/ssl/certs": "/etc/ssl/certs",
    "etc/dpkg/origins/default": "debian",
}


class _Slice(Struct, frozen=True):
    """A part of the spool, opened when it is asked for."""

    path: Path
    start: int
    size_bytes: int

    def __call__(self) -> BinaryIO:
        return io.BufferedReader(_SliceReader(self), 1 << 16)

    def read(self, size_bytes: int = -1) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size_bytes if size_bytes < 0 else min(size_bytes, self.size_bytes))

    def parsed(self) -> ElfFile | None:
        """What it says as an ELF file; large ones are mapped, not read."""
        if self.start % mmap.ALLOCATIONGRANULARITY or self.size_bytes < LARGE_BYTES:
            return parse_elf(self.read())
        with (
            self.path.open("rb") as stream,
            mmap.mmap(stream.fileno(), self.size_bytes, access=mmap.ACCESS_READ, offset=self.start) as view,
        ):
            return parse_elf(view)


class _SliceReader(io.RawIOBase):
    def __init__(self, piece: _Slice) -> None:
        self._stream = piece.path.open("rb")
        self._stream.seek(piece.start)
        self._left = piece.size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._stream.read(min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Unpacked(Struct):
    control: Control
    entries: list[Entry] = field(default_factory=list)


class Rootfs:
    """The merged files of packages; each path belongs to one of them, or to wain.

    :param spool: a file that does not exist yet, for the packages' bytes; it must outlive the entries.
    :param architecture: Debian's name of it.
    """

    def __init__(self, spool: Path, architecture: str) -> None:
        self._spool = spool
        self._architecture = architecture
        self._entries: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}
        self._controls: dict[str, Control] = {}
        self._implied: set[str] = set()  # folders that no package has named yet
        self._add_made()

    def _add_made(self) -> None:
        for path, mode in _DIRECTORIES.items():
            self._entries[path] = Entry(path=path, kind="directory", mode=mode)
        for name in ("bin", "sbin", "lib", "lib64"):
            if name == "lib64" and self._architecture != "amd64":
                continue
            self._entries[f"usr/{name}"] = Entry(path=f"usr/{name}", kind="directory", mode=0o755)
            self._entries[name] = Entry(path=name, kind="symlink", mode=0o777, target=f"usr/{name}")

    # -- packages ------------------------------------------------------------------------------------------

    def add(self, packages: Sequence[tuple[str, Path]]) -> None:
        """Adds packages, each its name and file; the same set gives the same files in any order.

        :raises DebianError: when a package is damaged, two have the same file, or a script does more than wain.
        """
        unpacked = []
        with self._spool.open("ab") as spool:
            unpacked = [self._unpack(name, path, spool) for name, path in sorted(packages)]
        self._controls.update((package.control.name, package.control) for package in unpacked)
        for kinds in (("symlink",), ("directory",), ("file", "hardlink")):
            for package in unpacked:
                for entry in package.entries:
                    if entry.kind in kinds:
                        self._place(entry, package.control)
        self._follow_scripts([package.control for package in unpacked])

    def _unpack(self, name: str, path: Path, spool: BinaryIO) -> _Unpacked:
        deb = Deb(path, what=f"Debian's package {name}")
        control = deb.control()
        if control.name != name or control.fields.get("Architecture") not in (self._architecture, "all"):
            raise DebianError(
                f"the file of Debian's package {name} holds {control.name[:80]}"
                f" for {control.fields.get('Architecture', '?')[:40]}",
                hint="The mirror's package list is wrong; use another mirror.",
            )
        found = _Unpacked(control)
        files: dict[str, Entry] = {}
        for member, place in deb.members(spool):
            target_path = _merged(member.path)
            if not target_path or member.path in _MERGED:
                continue
            if any(ord(char) < 32 for char in target_path):
                raise DebianError(
                    f"Debian's package {name} has a path with control characters: {target_path!r}",
                    hint="The package is damaged or hostile and must not be used.",
                )
            entry = Entry(
                path=target_path,
                kind=member.kind,
                mode=member.mode if member.kind != "symlink" else 0o777,
                uid=member.uid,
                gid=member.gid,
            )
            if member.kind == "file":
                piece = _Slice(self._spool, place, member.size_bytes)
                entry = files[target_path] = replace(entry, size_bytes=member.size_bytes, open_data=piece)
            elif member.kind == "symlink":
                entry = replace(entry, target=member.target)
            elif member.kind == "hardlink":
                link = _merged(member.target)
                if link not in files:
                    raise DebianError(
                        f"Debian's package {name} links /{target_path[:200]} to /{link[:200]}, which it does not have",
                        hint="The package is damaged or hostile and must not be used.",
                    )
                if self._is_left_out(name, link):
                    entry = replace(files[link], path=target_path)
                else:
                    entry = replace(entry, target=link)
            if self._is_left_out(name, target_path):
                continue
            found.entries.append(entry)
        spool.flush()
        return found

    @staticmethod
    def _is_left_out(package: str, path: str) -> bool:
        if package == "libc-bin" and not _LIBC_BIN_KEPT.fullmatch(path):
            return path.startswith(("usr/bin/", "usr/sbin/", "usr/share/", "var/"))
        if package == "ca-certificates" and path.startswith("usr/share/ca-certificates/"):
            return False  # its certificates become the bundle
        if converter := _CONVERTER.fullmatch(path):
            return converter[1] not in _CONVERTERS_KEPT
        return _LEFT_OUT.fullmatch(path) is not None

    def _place(self, entry: Entry, control: Control) -> None:
        path = self._through_links(entry.path)
        if entry.kind == "hardlink":
            entry = replace(entry, target=self._through_links(entry.target))
        entry = replace(entry, path=path)
        have = self._entries.get(path)
        if have is not None and have.kind == entry.kind == "directory" and path not in self._implied:
            return
        if have is not None and entry.kind == "directory" and have.kind == "symlink":
            return  # the files below it were mapped through the link
        if have is not None and path in self._owners and path not in self._implied:
            owner = self._controls.get(self._owners[path])
            if _replaces(owner, control.name):
                return
            if not (have.kind == entry.kind == "symlink" and have.target == entry.target) and not _replaces(
                control, self._owners[path]
            ):
                raise DebianError(
                    f"Debian's packages {self._owners[path]} and {control.name} both have /{path}",
                    hint="Leave one of them out of `packages`.",
                )
        for parent in _parents(path):
            known = self._entries.get(parent)
            if known is None:
                self._entries[parent] = Entry(path=parent, kind="directory", mode=0o755)
                self._owners[parent] = control.name
                self._implied.add(parent)
            elif known.kind != "directory":
                raise DebianError(
                    f"Debian's package {control.name} has /{path[:200]} below /{parent[:200]}, which is no folder",
                    hint="The package does not fit this base; leave it out of `packages`.",
                )
        if path in self._implied and entry.kind != "directory":
            raise DebianError(
                f"Debian's package {control.name} has /{path}, which is a folder of another",
                hint="The package does not fit this base; leave it out of `packages`.",
            )
        self._implied.discard(path)
        self._entries[path] = entry
        self._owners[path] = control.name

    def _through_links(self, path: str) -> str:
        """The path with links among its parents followed, inside the root."""
        parts = path.split("/")
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if done:
                    done.pop()
                continue
            done.append(part)
            have = self._entries.get("/".join(done))
            if parts and have is not None and have.kind == "symlink":
                links += 1
                if links > _MAX_LINKS:
                    raise DebianError(f"/{path} runs into a circle of links", hint="Leave the package out.")
                if have.target.startswith("/"):
                    done.clear()
                else:
                    done.pop()
                parts[:0] = have.target.split("/")
        return "/".join(done)

    def _resolve(self, path: str) -> Entry | None:
        """The file or folder that a path leads to, all links followed."""
        for _ in range(_MAX_LINKS):
            path = self._through_links(path)
            entry = self._entries.get(path)
            if entry is None or entry.kind not in ("symlink", "hardlink"):
                return entry
            if entry.kind == "hardlink":
                path = entry.target
            else:
                folder = "" if entry.target.startswith("/") else path.rpartition("/")[0]
                path = f"{folder}/{entry.target}".strip("/")
        return None

    def _follow_scripts(self, controls: Iterable[Control]) -> None:
        alternatives: list[Alternative] = []
        for control in controls:
            effects = script_effects(control.name, control.files, has_match=self._has_match, exists=self._exists)
            alternatives += effects.alternatives
            for path in effects.directories:
                for folder in (*_parents(_merged(path.strip("/"))), _merged(path.strip("/"))):
                    self._entries.setdefault(folder, Entry(path=folder, kind="directory", mode=0o755))
                    self._owners.setdefault(folder, control.name)
            for link, target in effects.links:
                self._make_link(_merged(link.strip("/")), target, control.name)
            for source, path in effects.copies:
                found = self._resolve(_merged(source.strip("/")))
                real = self._through_links(_merged(path.strip("/")))
                if found is not None and found.kind == "file" and real not in self._entries:
                    self._make(real, b"", owner=control.name)
                    self._entries[real] = replace(found, path=real)
            for path in effects.files:
                real = self._through_links(_merged(path.strip("/")))
                if real not in self._entries:
                    self._make(real, b"", owner=control.name)
        best: dict[str, Alternative] = {}
        for one in alternatives:
            if one.name not in best or one.priority > best[one.name].priority:
                best[one.name] = one
        for name, one in sorted(best.items()):
            if self._resolve(_merged(one.path.strip("/"))) is None:
                continue  # manual pages, mostly
            self._make_link(_merged(one.link.strip("/")), f"/etc/alternatives/{name}", "")
            self._make_link(f"etc/alternatives/{name}", one.path, "")

    def _make_link(self, path: str, target: str, owner: str) -> None:
        path = self._through_links(path)
        if path in self._entries:
            return
        for parent in _parents(path):
            self._entries.setdefault(parent, Entry(path=parent, kind="directory", mode=0o755))
        self._entries[path] = Entry(path=path, kind="symlink", mode=0o777, target=target)
        if owner:
            self._owners[path] = owner

    def _has_match(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.fullmatch(path) for path in self._entries)

    def _exists(self, path: str) -> bool:
        return self._resolve(_merged(path.strip("/"))) is not None

    # -- what wain makes -----------------------------------------------------------------------------------

    def _make(self, path: str, data: str | bytes, *, mode: int = 0o644, owner: str = "") -> None:
        content = data.encode() if isinstance(data, str) else data
        for parent in _parents(path):
            self._entries.setdefault(parent, Entry(path=parent, kind="directory", mode=0o755))
        self._entries[path] = Entry(
            path=path, kind="file", mode=mode, size_bytes=len(content), open_data=lambda: io.BytesIO(content)
        )
        if owner:
            self._owners[path] = owner

    def finish(self, python_minor: str) -> None:
        """Makes what the packages' scripts would have made, after the base's packages were added."""
        self._make("etc/passwd", _USERS)
        self._make("etc/group", _GROUPS)
        self._make("etc/networks", _NETWORKS)
        self._make("etc/timezone", "Etc/UTC\n")
        self._make("etc/nsswitch.conf", self._take("usr/share/libc-bin/nsswitch.conf") or _NSSWITCH)
        if inputrc := self._read("usr/share/readline/inputrc"):
            self._make("etc/inputrc", inputrc)
        certificates = sorted(
            path for path in self._entries if re.fullmatch(r"usr/share/ca-certificates/.+\.crt", path)
        )
        bundle = [data if data.endswith(b"\n") else data + b"\n" for path in certificates if (data := self._read(path))]
        for path in [path for path in self._entries if re.match(r"usr/share/ca-certificates(/|$)", path)]:
            self._remove(path)
        if bundle:
            self._make("etc/ssl/certs/ca-certificates.crt", b"".join(bundle))
        for path in ("var/run", "var/lock"):
            if not any(other.startswith(path + "/") for other in self._entries):
                self._remove(path)  # base-files has folders there, which its script makes links
        for path, target in _LINKS.items():
            self._make_link(path, target, "")
        if "usr/lib/os-release" in self._entries:
            self._make_link("etc/os-release", "../usr/lib/os-release", "")
        for folder in (f"usr/local/lib/python{python_minor}", f"usr/local/lib/python{python_minor}/dist-packages"):
            self._entries.setdefault(folder, Entry(path=folder, kind="directory", mode=0o755))
            self._owners[folder] = f"python{python_minor}"

    def add_bytecode(self, compiled: Mapping[str, Path], owner: str) -> None:
        """Adds byte code, path in the image -> file, in folders that may be new."""
        for path, file in compiled.items():
            for parent in _parents(path):
                if parent not in self._entries:
                    self._entries[parent] = Entry(path=parent, kind="directory", mode=0o755)
                    self._owners[parent] = owner
            size_bytes = file.stat().st_size
            self._entries[path] = Entry(
                path=path, kind="file", mode=0o644, size_bytes=size_bytes, open_data=_Slice(file, 0, size_bytes)
            )
            self._owners[path] = owner

    def add_status(self, names: Iterable[str]) -> None:
        """Writes what scanners read: one file a package."""
        for name in names:
            control = self._controls[name]
            first, _, rest = control.text.partition("\n")
            self._make(f"var/lib/dpkg/status.d/{name}", f"{first}\nStatus: install ok installed\n{rest}", owner=name)

    def add_loader_cache(self) -> None:
        """Writes /etc/ld.so.cache for the libraries that are there now."""
        libraries = []
        architecture = {"amd64": "amd64", "arm64": "arm64"}[self._architecture]
        for folder in self._library_folders():
            real = self._through_links(f"{folder.strip('/')}/x").rpartition("/")[0]
            prefix = f"{real}/"
            names = sorted(
                path[len(prefix) :]
                for path in self._entries
                if path.startswith(prefix) and re.fullmatch(r"(lib|ld-)[^/]*\.so(\.[^/]*)?", path[len(prefix) :])
            )
            for name in names:
                soname = self._soname(prefix + name, architecture)
                if soname is None:
                    continue
                is_link = self._entries[prefix + name].kind == "symlink"
                if is_link and name != soname and not name.endswith(".so"):
                    continue
                listed = name if is_link else soname
                if prefix + listed not in self._entries:
                    self._make_link(prefix + listed, name, self._owners.get(prefix + name, ""))
                libraries.append(Library(listed, f"{folder}/{listed}"))
        self._make("etc/ld.so.cache", ld_cache(libraries, architecture))

    def _library_folders(self) -> list[str]:
        """Those of ld.so.conf, then the loader's own; each real folder once, by the name it has first."""
        folders: list[str] = []
        for path in sorted(path for path in self._entries if re.fullmatch(r"etc/ld\.so\.conf\.d/[^/]+\.conf", path)):
            for line in self._read(path).decode("utf-8", "replace").splitlines():
                text = line.partition("#")[0].strip().rstrip("/")
                if re.fullmatch(r"/[\w.+/-]+", text) and ".." not in text.split("/"):
                    folders.append(text)
        seen: dict[str, str] = {}
        for folder in (*folders, "/lib", "/usr/lib"):
            real = self._through_links(f"{folder.strip('/')}/x").rpartition("/")[0]
            if real in self._entries:
                seen.setdefault(real, folder)
        return list(seen.values())

    def _soname(self, path: str, architecture: str) -> str | None:
        entry = self._resolve(path)
        if entry is None or entry.kind != "file" or not isinstance(entry.open_data, _Slice):
            return None
        if entry.size_bytes > _MAX_LIBRARY_BYTES or entry.open_data.read(4) != b"\x7fELF":
            return None
        elf = entry.open_data.parsed()
        if elf is None or elf.architecture != architecture:
            return None
        return elf.soname or path.rpartition("/")[2]

    def _read(self, path: str) -> bytes:
        entry = self._resolve(path)
        if entry is None or entry.open_data is None or entry.size_bytes > 16 << 20:
            return b""
        with entry.open_data() as stream:
            return stream.read()

    def _take(self, path: str) -> bytes:
        data = self._read(path)
        self._remove(path)
        return data

    def _remove(self, path: str) -> None:
        self._entries.pop(path, None)
        self._owners.pop(path, None)

    # -- what came of it -----------------------------------------------------------------------------------

    def files(self) -> Mapping[str, Entry]:
        """All entries by path."""
        return self._entries

    def owned(self, is_owner: Callable[[str], bool]) -> Iterator[Entry]:
        """The entries whose package's name (empty: wain's) fits, by path, each after the folders it is in.

        Folders that others made first are among them too: a layer says of each folder what its mode is.
        """
        paths = {path for path in self._entries if is_owner(self._owners.get(path, ""))}
        folders = {parent for path in paths for parent in _parents(path)}
        for path in sorted(paths | folders):
            yield self._entries[path]


def _merged(path: str) -> str:
    first = path.partition("/")[0]
    return f"usr/{path}" if first in _MERGED else path


def _parents(path: str) -> Iterator[str]:
    """The folders that a path is in, the highest first."""
    parts = path.split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


def _replaces(control: Control | None, name: str) -> bool:
    if control is None:
        return False
    groups = parse_relations(control.fields.get("Replaces", "").replace("\n", " "), what=control.name)
    return any(relation.name == name for group in groups for relation in group)
