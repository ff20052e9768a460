"""Debian mirrors: which are known, and what they serve, from the signature down to each package.

InRelease is signed with a key that comes with wain; it names the SHA-256 of each package list, and a list that
of each package. Nothing that fails in this chain is used, so plain HTTP is enough.

Sources: Debian repository format (InRelease, Release fields, by-hash); sources.list(5).
"""

from __future__ import annotations

import logging
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from wain.debian_packages import PackageIndex, parse_fields
from wain.digest import Digest
from wain.errors import DebianError, HashMismatch, NotFound, SignatureError, StoreError, TransferError
from wain.names import SUITES
from wain.store import Store, recipe_key
from wain.store_writer import BlobWriter
from wain.transport import Transport, redact_url

log = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told of a download: what, the bytes that are there, and the size where it is known."""

KEYRING = Path(__file__).parent / "keys" / "debian-archive-keyring.gpg"
"""The archive's public keys, of all suites in `SUITES`."""

_MAX_INRELEASE_BYTES = 4 << 20
_MAX_LIST_BYTES = 512 << 20
_MAX_PACKED_LIST_BYTES = 64 << 20
_REPLAY_TOLERANCE = timedelta(days=10)
_SUITE_NAMES = frozenset((*SUITES.values(), "buster", "forky", "duke", "sid", "stable", "oldstable", "oldoldstable",
                          "testing", "unstable"))  # fmt: skip
_NO_MIRROR = (
    "Name one with the setting `debian-mirrors`, or a base image with --base; a mirror that is in"
    " /etc/apt/sources.list.d is found by itself."
)


class Mirrors(Struct, frozen=True, kw_only=True):
    """Roots of Debian mirrors, the best first, without a slash at the end."""

    main: tuple[str, ...]
    security: tuple[str, ...] = ()
    check_valid_until: bool = True
    """False for mirrors that are frozen on purpose: an expired Release and an older one are accepted."""


def debian_mirrors(
    urls: Sequence[str] = (), *, apt: Path = Path("/etc/apt"), lists: Path = Path("/var/lib/apt/lists")
) -> Mirrors | None:
    """The mirrors to use: those named, else those of the machine's own apt sources; None when there is none.

    No request is made: of the machine's sources those count whose suite is one of Debian's and whose Release,
    where apt has fetched it, says Origin: Debian. What they serve is checked by wain's own keys.

    :param urls: roots of mirrors; one with `security` in its path is the security archive's.
    """
    if urls:
        roots = tuple(dict.fromkeys(url.rstrip("/") for url in urls))
        security = tuple(url for url in roots if "security" in url.partition("://")[2].partition("/")[2])
        main = tuple(url for url in roots if url not in security)
        return Mirrors(main=main, security=security) if main else None
    main_found: list[str] = []
    security_found: list[str] = []
    check = True
    for source in _apt_sources(apt):
        base = re.sub(r"(-updates|-security|-backports|-proposed-updates|/updates)$", "", source.suite)
        if base not in _SUITE_NAMES or "main" not in source.components or not _is_debian(source, lists):
            continue
        found = security_found if source.suite.endswith(("-security", "/updates")) else main_found
        if source.uri not in found:
            found.append(source.uri)
        check = check and source.check_valid_until
    if not main_found:
        return None
    return Mirrors(main=tuple(main_found), security=tuple(security_found), check_valid_until=check)


class _Source(Struct, frozen=True, kw_only=True):
    uri: str
    suite: str
    components: tuple[str, ...]
    check_valid_until: bool = True


def _apt_sources(apt: Path) -> Iterator[_Source]:
    """The enabled binary sources that are had by HTTP, in apt's order."""
    files = [apt / "sources.list"]
    folder = apt / "sources.list.d"
    try:
        files += sorted(path for path in folder.iterdir() if path.suffix in (".list", ".sources"))
    except OSError:
        pass
    for path in files:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        for source in _deb822_sources(text) if path.suffix == ".sources" else _line_sources(text):
            for uri in _expand(source.uri):
                if uri.startswith(("http://", "https://")):
                    yield replace(source, uri=uri.rstrip("/"))


def _expand(uri: str) -> Iterable[str]:
    if not uri.startswith("mirror+file:"):
        return (uri,)
    try:
        text = Path("/" + uri.removeprefix("mirror+file:").lstrip("/")).read_text("utf-8", "replace")
    except OSError:
        return ()
    return tuple(line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _line_sources(text: str) -> Iterator[_Source]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>[^#]*)(?:#.*)?", line)
        words = match["rest"].split() if match else []
        if match is None or len(words) < 2:
            continue
        frozen = re.search(r"check-valid-until\s*=\s*(no|false|0)\b", match["options"] or "", re.IGNORECASE)
        yield _Source(uri=words[0], suite=words[1], components=tuple(words[2:]), check_valid_until=not frozen)


def _deb822_sources(text: str) -> Iterator[_Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {name.lower(): value for name, value in parse_fields(stanza).items()}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        frozen = fields.get("check-valid-until", "yes").lower() in ("no", "false", "0")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield _Source(uri=uri, suite=suite, components=components, check_valid_until=not frozen)


def _is_debian(source: _Source, lists: Path) -> bool:
    """False where apt has fetched the source's Release and it is not Debian's."""
    stem = source.uri.partition("://")[2].rpartition("@")[2].replace("_", "%5f")
    name = f"{stem}/dists/{source.suite}".replace("/", "_")
    for end in ("_InRelease", "_Release"):
        try:
            with (lists / (name + end)).open("rb") as stream:
                head = stream.read(4096)
        except OSError:
            continue
        return re.search(rb"^Origin: *Debian\s*$", head, re.MULTILINE) is not None
    return True


class Release(Struct, frozen=True, kw_only=True):
    """A Release file whose signature was verified."""

    mirror: str
    codename: str
    """As it was asked for: `trixie`, `trixie-updates`, `trixie-security`."""
    digest: Digest
    """Of the signed text."""
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    sums: Mapping[str, tuple[Digest, int]]
    """Path below the suite's folder -> digest and size."""


def verify_inrelease(data: bytes, *, mirror: str, codename: str, keyring: Path = KEYRING) -> Release:
    """The Release that an InRelease file holds; what stands outside its signature does not count.

    :raises SignatureError: when no key of the keyring made a valid signature over it.
    :raises DebianError: when it is not Debian's, of another suite, or malformed.
    """
    import pysequoia

    url = f"{redact_url(mirror)}/dists/{codename}/InRelease"
    certs = pysequoia.Cert.split_bytes(keyring.read_bytes())
    try:
        verified = pysequoia.verify(bytes=data, store=lambda _ids: certs)
    except Exception as error:  # pysequoia raises RuntimeError and others; none means a signature is good
        reason = str(error).partition("\n")[0].rstrip(".")
        raise SignatureError(
            f"the signature of {url} does not verify: {reason}",
            hint="Use another mirror. If its keys are newer than this wain, upgrade wain.",
        ) from None
    if not verified.valid_sigs or verified.bytes is None:
        raise SignatureError(f"{url} bears no signature of Debian's", hint="Use another mirror.")
    text = verified.bytes.decode("utf-8", "replace")
    fields = parse_fields(text)
    if fields.get("Origin") != "Debian" or fields.get("Codename") != codename:
        raise DebianError(
            f"{url} is the Release of {fields.get('Origin', '?')[:40]} {fields.get('Codename', '?')[:40]},"
            f" not of Debian {codename}",
            hint="Use another mirror.",
        )
    try:
        date = _date(fields["Date"])
        valid_until = _date(fields["Valid-Until"]) if "Valid-Until" in fields else None
        sums = {}
        for line in fields["SHA256"].split("\n"):
            words = line.split()
            if len(words) == 3:
                sums[words[2]] = (Digest("sha256:" + words[0].lower()), int(words[1]))
    except (KeyError, ValueError, TypeError) as error:
        raise DebianError(f"{url} is malformed: {error}", hint="Use another mirror.") from error
    return Release(
        mirror=mirror,
        codename=codename,
        digest=Digest.of(verified.bytes),
        date=date,
        valid_until=valid_until,
        by_hash=fields.get("Acquire-By-Hash", "").lower() == "yes",
        sums=sums,
    )


def _date(text: str) -> datetime:
    found = parsedate_to_datetime(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class Archive:
    """What mirrors serve, verified, with the store in between.

    :param now: the time by which a Release expires.
    """

    def __init__(
        self,
        mirrors: Mirrors | None,
        *,
        store: Store,
        transport: Transport,
        keyring: Path = KEYRING,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._mirrors = mirrors
        self._store = store
        self._transport = transport
        self._keyring = keyring
        self._now = now

    @property
    def mirrors(self) -> Mirrors:
        """:raises DebianError: when none is known."""
        if self._mirrors is None:
            raise DebianError("no Debian mirror is known", hint=_NO_MIRROR)
        return self._mirrors

    def releases(self, suite: str) -> tuple[Release, ...]:
        """The suite's own Release, its updates' and its security archive's.

        A machine without a security archive in its sources: the folder beside the mirror's is tried, as most
        mirrors have it, and its absence is warned of.

        :raises DebianError: when a mirror does not answer with a Release that is signed and current.
        """
        mirrors = self.mirrors
        found = [self._release(mirrors.main, suite), self._release(mirrors.main, f"{suite}-updates")]
        if mirrors.security:
            found.append(self._release(mirrors.security, f"{suite}-security"))
        else:
            beside = tuple(f"{url}-security" for url in mirrors.main)
            try:
                found.append(self._release(beside, f"{suite}-security"))
            except SignatureError:
                raise
            except (TransferError, DebianError) as error:
                log.warning("no security updates for Debian %s: no mirror of its security archive is known", suite)
                log.info("%s", error)
        return tuple(found)

    def _release(self, mirrors: Sequence[str], codename: str) -> Release:
        failure: TransferError | DebianError | None = None
        for mirror in mirrors:
            try:
                _, data = self._transport.get(f"{mirror}/dists/{codename}/InRelease", max_bytes=_MAX_INRELEASE_BYTES)
                release = verify_inrelease(data, mirror=mirror, codename=codename, keyring=self._keyring)
                self._check_age(release)
                return release
            except (TransferError, DebianError) as error:
                log.info("%s", error)
                if failure is None or isinstance(error, SignatureError):
                    failure = error
        assert failure is not None
        if isinstance(failure, NotFound):
            raise DebianError(
                f"no Debian mirror has {codename}: {failure.message}",
                hint="Name a mirror that has it with the setting `debian-mirrors`, or a base image with --base.",
            ) from failure
        raise failure

    def _check_age(self, release: Release) -> None:
        """Refuses a Release that has expired, or is older than one that was seen before.

        :raises DebianError: says which.
        """
        if not self.mirrors.check_valid_until:
            return
        where = f"{redact_url(release.mirror)}/dists/{release.codename}/InRelease"
        if release.valid_until is not None and release.valid_until < self._now():
            raise DebianError(
                f"{where} has expired on {release.valid_until:%Y-%m-%d}",
                hint="The mirror is out of date, or this machine's clock is wrong. Of a mirror that is frozen on"
                " purpose say so in its apt source: Check-Valid-Until: no.",
            )
        key = recipe_key({"debian-release": release.codename, "keyring": self._keyring.name})
        seen = (self._store.memo("debian-release", key) or {}).get("date")
        newest = datetime.fromisoformat(seen) if isinstance(seen, str) else release.date
        if release.date < newest - _REPLAY_TOLERANCE:
            raise DebianError(
                f"{where} is of {release.date:%Y-%m-%d}, and one of {newest:%Y-%m-%d} was seen before",
                hint="The mirror is out of date, or somebody serves old packages on purpose. Use another mirror; of"
                " one that is frozen on purpose say so in its apt source: Check-Valid-Until: no.",
            )
        if release.date < newest:
            log.info("%s is of %s, older than one that was seen before", where, release.date)
        if release.date > newest or seen is None:
            self._store.put_memo("debian-release", key, {"date": release.date.isoformat()})

    def index(self, releases: Iterable[Release], architecture: str) -> PackageIndex:
        """The package lists of these releases.

        :raises DebianError: when the suite has no such architecture, or a list is damaged.
        """
        return PackageIndex(
            ("security" if release.codename.endswith("-security") else "main", self._list(release, architecture))
            for release in releases
        )

    def _list(self, release: Release, architecture: str) -> bytes:
        path = f"main/binary-{architecture}/Packages.xz"
        if path not in release.sums:
            raise DebianError(
                f"Debian {release.codename} has no packages for {architecture}",
                hint="Name a base image with --base.",
            )
        digest, size_bytes = release.sums[path]
        folder = path.rpartition("/")[0]
        ways = [f"{folder}/by-hash/SHA256/{digest.hex}"] if release.by_hash else []
        urls = [f"{release.mirror}/dists/{release.codename}/{way}" for way in (*ways, path)]
        if size_bytes > _MAX_PACKED_LIST_BYTES:
            raise DebianError(f"{urls[-1]} has {size_bytes} bytes", hint="Use another mirror.")
        file = self._fetch(digest, size_bytes, urls, kind="debian-list", note=f"{release.codename} {architecture}")
        data = b""
        try:
            data = lzma.LZMADecompressor(memlimit=256 << 20).decompress(file.read_bytes(), _MAX_LIST_BYTES)
        except lzma.LZMAError as error:
            raise DebianError(f"{urls[-1]} does not unpack: {error}", hint="Use another mirror.") from error
        if len(data) >= _MAX_LIST_BYTES:
            raise DebianError(f"{urls[-1]} unpacks to too much", hint="Use another mirror.")
        return data

    def deb(
        self,
        name: str,
        *,
        filename: str,
        origin: str,
        digest: Digest,
        size_bytes: int,
        progress: Progress | None = None,
    ) -> Path:
        """A package's file, verified, in the store.

        :raises DebianError: when no mirror has it any more.
        """
        have = self._store.path(digest)
        if have is not None and have.stat().st_size == size_bytes and Digest.of_file(have) == digest:
            return have
        if have is not None:
            self._store.drop(digest)
        mirrors = self.mirrors
        security = mirrors.security or tuple(f"{url}-security" for url in mirrors.main)
        first, second = (security, mirrors.main) if origin == "security" else (mirrors.main, security)
        urls = [f"{root}/{filename}" for root in (*first, *second)]
        try:
            return self._fetch(
                digest, size_bytes, urls, kind="deb", note=filename.rpartition("/")[2], progress=progress
            )
        except NotFound as error:
            raise DebianError(
                f"no Debian mirror has {filename.rpartition('/')[2]} any more",
                hint="A newer version of it has come out: renew the lock with `wain lock --upgrade`.",
            ) from error

    def _fetch(
        self,
        digest: Digest,
        size_bytes: int,
        urls: Sequence[str],
        *,
        kind: str,
        note: str,
        progress: Progress | None = None,
    ) -> Path:
        """:raises NotFound: when none of the URLs has it."""
        have = self._store.path(digest)
        if have is not None:
            if have.stat().st_size == size_bytes and Digest.of_file(have) == digest:
                return have
            self._store.drop(digest)
        with self._store.partial(digest, kind=kind, note=note) as writer:
            if not writer.present:
                told = partial(progress, note) if progress else None
                self._download(writer, digest, size_bytes, urls, told)
                writer.commit(known=digest)
        path = self._store.path(digest)
        if path is None:
            raise StoreError(f"{note} went away as soon as it was stored", hint="Run the same again.")
        return path

    def _download(
        self,
        writer: BlobWriter,
        digest: Digest,
        size_bytes: int,
        urls: Sequence[str],
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        failure: TransferError | HashMismatch | None = None
        for url in urls:
            try:
                self._transport.download(
                    url,
                    writer.path,
                    digest=digest,
                    size_bytes=size_bytes,
                    progress=progress,
                    elsewhere=writer.move,
                )
                return
            except NotFound as error:
                failure = failure or error
            except (TransferError, HashMismatch) as error:
                log.info("%s", error)
                if failure is None or isinstance(failure, NotFound):
                    failure = error
        assert failure is not None
        raise failure
