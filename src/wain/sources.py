"""Sources to build from: an sdist unpacked, or a project copied, into a folder of their own.

Sources: PyPA specifications, source distribution format; git's repository layout.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from wain.digest import CHUNK_BYTES, Digest
from wain.errors import ImageError, Offline, SdistError
from wain.tars import TarReader, decompressed
from wain.uv_process import redact_text

logger = logging.getLogger(__name__)

MAX_UNPACKED_BYTES = 8 << 30
MAX_MEMBERS = 500_000
_EPOCH = 315532800
_JUNK = frozenset(
    (
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        ".venv",
        "venv",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        "node_modules",
        "build",
        "dist",
    )
)
_VERSION_TOOLS = (
    "setuptools-scm",
    "setuptools_scm",
    "hatch-vcs",
    "hatch_vcs",
    "versioningit",
    "dunamai",
    "dynamic-versioning",
    "flit_scm",
    "flit-scm",
    "versioneer",
    "setuptools-git-versioning",
    "setuptools_git_versioning",
    "vcs-versioning",
    "pdm.version",
    "tool.pdm.version",
    "pbr",
    "scikit_build_core.metadata.setuptools_scm",
)
_PROTOCOLS = "https:http:ssh:git:file"
_HINT = "The file is damaged or hostile; fetch it again, or name another version."


class ProjectFiles(Struct, frozen=True, kw_only=True):
    """What of a project goes into a build of it."""

    top: Path
    """The folder that paths are relative to: the project's, or its repository's where the version comes from it."""
    paths: tuple[str, ...]
    """Relative to `top`, sorted; no directories."""
    subdirectory: str = ""
    """The project's folder below `top`."""
    repository: Path | None = None
    """The folder with git's data, where the build asks git for the version."""
    common: Path | None = None
    """Where that repository keeps its objects."""
    digest: Digest
    """Of paths, modes and bytes, and of what git would say of the version."""


def unpack_sdist(path: Path, target: Path, *, filename: str) -> Path:
    """Unpack an sdist below the empty folder `target`; the folder of its project is returned.

    Links may point to places inside the sdist alone. Files get the archive's times, and 0644 or 0755.

    :raises SdistError: when it is damaged, hostile, or of a format that is not read.
    """
    try:
        if filename.endswith(".zip"):
            _unpack_zip(path, target, filename)
        else:
            with path.open("rb") as stream, _inflated(stream, filename) as inflated:
                _unpack_tar(inflated, target, filename)
    except (ImageError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        detail = error.message if isinstance(error, ImageError) else str(error)
        raise SdistError(f"{filename} cannot be unpacked: {detail}", hint=_HINT) from error
    entries = [entry for entry in target.iterdir() if entry.name != "pax_global_header"]
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        return entries[0]
    if any((target / name).is_file() for name in ("pyproject.toml", "setup.py")):
        return target
    raise SdistError(f"{filename} is no sdist: it has no single folder at its top", hint=_HINT)


def _inflated(stream: BinaryIO, filename: str) -> BinaryIO:
    if filename.endswith((".tar.bz2", ".tbz")):
        import bz2

        return cast("BinaryIO", bz2.BZ2File(stream))
    if filename.endswith((".tar.xz", ".txz")):
        import lzma

        return cast("BinaryIO", lzma.LZMAFile(stream))
    if filename.endswith((".tar.gz", ".tgz", ".tar", ".tar.zst")):
        return decompressed(stream)
    raise SdistError(f"{filename} is of a format that is not read", hint="sdists end in .tar.gz; name another version.")


def _unpack_tar(stream: IO[bytes], target: Path, filename: str) -> None:
    reader = TarReader(stream, what=filename, max_members=MAX_MEMBERS, max_bytes=MAX_UNPACKED_BYTES)
    writer = _TreeWriter(target, filename)
    for member in reader:
        if not member.path:
            continue
        if member.kind == "directory":
            writer.directory(member.path)
        elif member.kind == "file":
            if member.is_sparse:
                raise SdistError(f"{filename} has a sparse file: {member.path!r}", hint=_HINT)
            writer.file(member.path, reader.chunks(), executable=bool(member.mode & 0o111), mtime=member.mtime)
        elif member.kind == "symlink":
            writer.symlink(member.path, member.target)
        elif member.kind == "hardlink":
            writer.hardlink(member.path, member.target)
        else:
            raise SdistError(f"{filename} has a {member.kind} in it: {member.path!r}", hint=_HINT)


def _unpack_zip(path: Path, target: Path, filename: str) -> None:
    writer = _TreeWriter(target, filename)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
            raise SdistError(f"{filename} unpacks to too much", hint=_HINT)
        for member in members:
            name = _clean(member.filename, filename)
            if not name:
                continue
            mode = member.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise SdistError(f"{filename} has a link in it: {name!r}", hint=_HINT)
            if member.is_dir():
                writer.directory(name)
                continue
            with archive.open(member) as stream:
                chunks = iter(lambda stream=stream: stream.read(CHUNK_BYTES), b"")  # type: ignore[misc]
                writer.file(name, chunks, executable=bool(mode & 0o111), mtime=_EPOCH)


def _clean(name: str, filename: str) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(name) > 4096:
        raise SdistError(f"{filename} has a path that leaves its root: {name[:200]!r}", hint=_HINT)
    return "/".join(parts)


class _TreeWriter:
    """Writes files below a folder that nobody else can write to, never through a link."""

    def __init__(self, root: Path, filename: str) -> None:
        self._root = root
        self._filename = filename
        self._written_bytes = 0

    def directory(self, path: str) -> None:
        where = self._place(path)
        if not where.is_dir():
            where.mkdir(mode=0o755)

    def file(self, path: str, chunks: Iterable[bytes], *, executable: bool, mtime: float) -> None:
        where = self._fresh(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(where, flags, 0o755 if executable else 0o644), "wb") as stream:
            for chunk in chunks:
                self._written_bytes += len(chunk)
                if self._written_bytes > MAX_UNPACKED_BYTES:
                    raise SdistError(f"{self._filename} unpacks to too much", hint=_HINT)
                stream.write(chunk)
            os.fchmod(stream.fileno(), 0o755 if executable else 0o644)
        seconds = min(max(mtime, 0), 1 << 33)
        os.utime(where, (seconds, seconds), follow_symlinks=False)

    def symlink(self, path: str, target: str) -> None:
        depth = path.count("/")
        for part in target.split("/"):
            depth += -1 if part == ".." else part not in ("", ".")
            if depth < 0:
                break
        if target.startswith("/") or depth < 0 or "\0" in target:
            raise SdistError(
                f"{self._filename} has a link that leaves its root: {path!r} -> {target[:200]!r}", hint=_HINT
            )
        self._fresh(path).symlink_to(target)

    def hardlink(self, path: str, target: str) -> None:
        original = self._place(target)
        if original.is_symlink() or not original.is_file():
            raise SdistError(f"{self._filename} has a hard link to no file: {path!r}", hint=_HINT)
        shutil.copy2(original, self._fresh(path), follow_symlinks=False)

    def _fresh(self, path: str) -> Path:
        where = self._place(path)
        if where.is_symlink() or where.is_file():
            where.unlink()
        elif where.is_dir():
            raise SdistError(f"{self._filename} has {path!r} as a folder and as a file", hint=_HINT)
        return where

    def _place(self, path: str) -> Path:
        """Where a path goes, its parents made; a link on the way is refused."""
        where = self._root
        *above, name = path.split("/")
        for part in above:
            where = where / part
            if where.is_symlink() or (where.exists() and not where.is_dir()):
                raise SdistError(f"{self._filename} has a path through a link or a file: {path!r}", hint=_HINT)
            if not where.exists():
                where.mkdir(mode=0o755)
        return where / name


def project_sources(project: Path) -> ProjectFiles:
    """What of a project goes into a build: what git has or does not ignore, else all but what tools leave.

    Where the build takes its version from git, the whole repository's files go with it.

    :raises SdistError: when files cannot be read.
    """
    project = project.resolve()
    top, subdirectory, repository, common = project, "", None, None
    listed = None
    version_text = ""
    if shutil.which("git") and (found := _git(project, "rev-parse", "--show-toplevel", "--absolute-git-dir")):
        top_text, git_text = found.decode("utf-8", "surrogateescape").splitlines()[:2]
        if _asks_git(project):
            top = Path(top_text)
            subdirectory = "" if top == project else project.relative_to(top).as_posix()
            repository = Path(git_text)
            common_text = _git(project, "rev-parse", "--git-common-dir") or b""
            common = (project / common_text.decode("utf-8", "surrogateescape").strip()).resolve()
            version_text = _version_text(top)
        listed = _git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        names = {name.decode("utf-8", "surrogateescape") for name in listed.split(b"\0") if name}
        paths = sorted(_existing(top, names))
    else:
        paths = sorted(_walk(top))
    try:
        digest = _tree_digest(top, paths, (subdirectory, version_text))
    except OSError as error:
        raise SdistError(
            f"{error.filename} cannot be read: {error.strerror}", hint="Make the project's files readable."
        ) from error
    return ProjectFiles(
        top=top, paths=tuple(paths), subdirectory=subdirectory, repository=repository, common=common, digest=digest
    )


def copy_project(files: ProjectFiles, target: Path) -> Path:
    """Copy a project's files into the empty folder `target`; the copy of the project's folder is returned.

    Modes become 0644 or 0755; links are copied as links. Git's data is borrowed: nothing is ever written to
    the repository.

    :raises SdistError: when files cannot be read.
    """
    made: set[Path] = set()
    try:
        for name in files.paths:
            source, where = files.top / name, target / name
            if where.parent not in made:
                where.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                made.add(where.parent)
            if source.is_symlink():
                where.symlink_to(source.readlink())
                continue
            shutil.copyfile(source, where)
            found = source.stat()
            where.chmod(0o755 if found.st_mode & 0o111 else 0o644)
            os.utime(where, ns=(found.st_mtime_ns, found.st_mtime_ns))
        if files.repository is not None and files.common is not None:
            _borrow_repository(files.repository, files.common, target / ".git")
    except OSError as error:
        raise SdistError(
            f"{error.filename} cannot be copied: {error.strerror}",
            hint="Make the project's files readable, and look for space in the temporary folder.",
        ) from error
    project = target / files.subdirectory
    project.mkdir(parents=True, exist_ok=True)
    return project


def clone_repository(
    kind: str, url: str, commit: str, target: Path, *, credential_urls: Sequence[str] = (), offline: bool = False
) -> Path:
    """Check a commit of a repository out into the empty folder `target`, with its history for version tools.

    :param kind: `git`; no other is read.
    :param url: without credentials; a path for a repository on this machine.
    :param credential_urls: URLs whose user and password go to git where scheme and host are the repository's.
    :raises SdistError: when git is missing or fails, or the repository does not have the commit.
    :raises Offline: when it is elsewhere and `offline` is set.
    """
    shown = redact_text(url)
    is_local = "://" not in url or url.startswith("file:")
    if kind != "git" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit) or url.startswith("-"):
        raise SdistError(f"{shown} at {commit[:80]!r} is no commit of git", hint="Name a release, or a git commit.")
    if offline and not is_local:
        raise Offline(f"{shown} has to be cloned", hint="Run it once without --offline.")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": _PROTOCOLS}
    parts = urlsplit(url)
    for credential_url in credential_urls:
        other = urlsplit(credential_url.removeprefix("git+"))
        if other.username and (other.scheme, other.hostname, other.port) == (parts.scheme, parts.hostname, parts.port):
            # By the environment: the arguments of a process are everybody's to read.
            whole = urlunsplit((other.scheme, other.netloc, "/", "", ""))
            plain = urlunsplit((parts.scheme, parts.netloc, "/", "", ""))
            environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{whole}.insteadOf"}
            environ |= {"GIT_CONFIG_VALUE_0": plain}
            break
    commands = (
        ("clone", "--quiet", "--no-checkout", "--config", "core.hooksPath=/dev/null", "--", url, str(target)),
        ("-C", str(target), "checkout", "--quiet", "--detach", commit),
    )
    for words in commands:
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, env=environ, timeout=1800, check=False, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise SdistError(f"{shown} cannot be cloned: git is not installed", hint="Install git.") from error
        except subprocess.TimeoutExpired as error:
            raise SdistError(
                f"{shown} cannot be cloned within 30 minutes", hint="Look whether its server answers."
            ) from error
        if done.returncode != 0:
            text = redact_text(done.stderr.decode("utf-8", "replace")).strip()
            raise SdistError(
                f"{shown} cannot be had at {commit[:12]}: {text[-500:]}",
                hint="Check the URL, the commit and the credentials; lock again where the commit is gone.",
            )
    return target


def _git(folder: Path, *words: str) -> bytes | None:
    """What git prints, None where it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, env=environ, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _asks_git(project: Path) -> bool:
    """Whether the project's build takes its version from git, as far as its configuration says."""
    for name in ("pyproject.toml", "setup.cfg", "setup.py"):
        try:
            with (project / name).open("rb") as stream:
                text = stream.read(1 << 20).decode("utf-8", "replace")
        except OSError:
            continue
        if any(tool in text for tool in _VERSION_TOOLS):
            return True
    return False


def _version_text(top: Path) -> str:
    """What decides the version that git gives: the commit, its tags, and whether files differ from it."""
    words = (
        ("rev-parse", "HEAD"),
        ("describe", "--tags", "--long", "--always"),
        ("tag", "--points-at", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
        ("rev-parse", "--abbrev-ref", "HEAD"),
    )
    return "\0".join((_git(top, *each) or b"").decode("utf-8", "surrogateescape") for each in words)


def _existing(top: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            mode = (top / name).lstat().st_mode
        except OSError:
            continue  # deleted in the work tree, still in the index
        if stat.S_ISDIR(mode):
            yield from (f"{name.rstrip('/')}/{inner}" for inner in _walk(top / name))  # a submodule
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield name


def _walk(top: Path) -> Iterator[str]:
    """Paths of files and links below a folder, without what tools leave behind."""
    for folder, folders, files in os.walk(top):
        relative = PurePosixPath(Path(folder).relative_to(top).as_posix())
        is_top = folder == str(top)
        for name in list(folders):
            inner = Path(folder) / name
            if (
                name in (_JUNK if is_top else _JUNK - {"build", "dist"})
                or name.endswith(".egg-info")
                or (inner / "pyvenv.cfg").exists()
            ):
                folders.remove(name)
            elif inner.is_symlink():
                folders.remove(name)
                yield str(relative / name)
        for name in files:
            mode = (Path(folder) / name).lstat().st_mode
            if (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and not name.endswith(".pyc"):
                yield str(relative / name)


def _tree_digest(top: Path, paths: Sequence[str], more: Sequence[str]) -> Digest:
    whole = hashlib.sha256()
    for text in more:
        whole.update(text.encode("utf-8", "surrogateescape") + b"\0\0")
    for name in paths:
        path = top / name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, inner = b"l", hashlib.sha256(os.fsencode(path.readlink())).digest()
        else:
            with path.open("rb") as stream:
                inner = hashlib.file_digest(stream, "sha256").digest()
            kind = b"x" if mode & 0o111 else b"f"
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + kind + inner)
    return Digest("sha256:" + whole.hexdigest())


def _borrow_repository(repository: Path, common: Path, target: Path) -> None:
    """A repository of its own with the same refs and index, which reads the other's objects."""
    target.mkdir()
    for folder, names in ((common, ("config", "packed-refs", "shallow")), (repository, ("HEAD", "index"))):
        for name in names:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    if (common / "refs").is_dir():
        shutil.copytree(common / "refs", target / "refs", dirs_exist_ok=True)
    for name in ("refs", "objects/info"):
        (target / name).mkdir(parents=True, exist_ok=True)
    alternates = str((common / "objects").resolve())
    (target / "objects/info/alternates").write_bytes(os.fsencode(alternates) + b"\n")
