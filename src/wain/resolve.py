"""Resolution through uv as a process: requirements -> Lock, exact for each target.

uv runs once for each target, with its libc and its full Python version, and what it answers is put together:
what is the same for all targets carries no marker. Wheels alone are considered first; an sdist is looked at
only where an interpreter of the target's minor version is on this machine.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct, field
from msgspec.structs import replace

from wain.compatibility import best_wheel, evaluate_marker
from wain.errors import (
    AuthError,
    LockError,
    NoWheel,
    Offline,
    ResolutionError,
    SdistError,
    TransferError,
    UnknownDistribution,
    WainError,
)
from wain.find_links import local_folders, write_index
from wain.index import LockedFile, PackageIndexes, builtin_index_url
from wain.interpreters import find_interpreter
from wain.lock import Lock, LockedPackage, parse_pylock
from wain.lock_merge import merge_locks, restrict_to_hashes
from wain.platforms import Target
from wain.requirements import RequirementLine
from wain.settings import IndexSettings, normalize_name, read_pyproject
from wain.sources import copy_project, project_sources
from wain.store import Store
from wain.uv_process import UvResult, redact_text, run_uv, uv_environment

logger = logging.getLogger(__name__)

_NEWEST_GLIBC = 40
_OLDEST_GLIBC = {"x86_64": 17, "aarch64": 17}
_MAX_REASON = 1500
_MAX_NAMES = 40


class ResolutionInput(Struct, frozen=True, kw_only=True):
    """What is to be resolved: a project's metadata, or requirement lines."""

    folder: Path
    """Where relative paths start."""
    project: bool = False
    """The project in the folder, which the file `origin` there describes, with extras and groups."""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    lines: tuple[RequirementLine, ...] = ()
    constraints: tuple[RequirementLine, ...] = ()
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Name -> the hashes that the user allows."""
    dynamic: bool = False
    """Whether a build back end decides what the project requires."""
    origin: str = ""
    """The file that says it: `requirements.txt`, `pyproject.toml`, `setup.py`."""

    @property
    def needs_build(self) -> bool:
        """Whether metadata can only be had by running a build back end."""
        return self.dynamic or any(
            line.editable or (line.url is not None and not re.split("[#?]", line.url)[0].endswith(".whl"))
            for line in self.lines
        )


def resolve(
    given: ResolutionInput,
    targets: Sequence[Target],
    *,
    settings: IndexSettings,
    store: Store,
    indexes: PackageIndexes,
    preferences: Lock | None = None,
    upgrade: Sequence[str] | None = None,
    refresh: bool = False,
) -> Lock:
    """The newest set of versions that fits, for every target.

    :param preferences: versions to keep where they still fit.
    :param upgrade: names whose preference is dropped; None for none, empty for all.
    :raises UnknownDistribution: when no index has a name.
    :raises NoWheel: when nothing fits because wheels are missing; says which exist.
    :raises ResolutionError: when no set of versions fits.
    :raises HashMismatch: when the user's hashes leave no file of a distribution.
    :raises TransferError: when an index does not answer.
    :raises Offline: when the transport is offline and uv's cache does not hold enough.
    """
    if not targets:
        raise LockError("there is no platform to lock for", hint="Name one with --platform.")
    stop = threading.Event()

    def run(target: Target) -> Lock:
        return _Resolution(given, target, settings, store, indexes, preferences, upgrade, refresh, stop).run()

    with ThreadPoolExecutor(min(4, len(targets))) as pool:
        try:
            locks = list(pool.map(run, targets))
        except BaseException:
            stop.set()
            raise
    merged = merge_locks(locks, targets, origin=given.origin)
    merged = restrict_to_hashes(merged, given.hashes)
    _warn_of_several_indexes(merged, settings, indexes)
    return merged


def python_platform(target: Target) -> str | None:
    """uv's name of a target's platform; None where it has none."""
    machine = target.platform.machine
    if machine not in _OLDEST_GLIBC:
        return None
    if target.libc == "musl":
        return f"{machine}-unknown-linux-musl"
    minor = min(target.libc_version[1], _NEWEST_GLIBC)
    if minor < 28:
        return f"{machine}-manylinux_2_17" if minor >= 17 else None
    known = [28, 31, *range(32, _NEWEST_GLIBC + 1)]
    return f"{machine}-manylinux_2_{max(n for n in known if n <= minor)}"


class _Resolution:
    """One run of uv for one target."""

    def __init__(
        self,
        given: ResolutionInput,
        target: Target,
        settings: IndexSettings,
        store: Store,
        indexes: PackageIndexes,
        preferences: Lock | None,
        upgrade: Sequence[str] | None,
        refresh: bool,
        stop: threading.Event,
    ) -> None:
        self._given = given
        self._target = target
        self._settings = settings
        self._store = store
        self._indexes = indexes
        self._preferences = preferences
        self._upgrade = upgrade
        self._refresh = refresh
        self._asked = False
        self._stop = stop

    def run(self) -> Lock:
        only_binary = not self._given.needs_build and not self._settings.no_binary
        result = self._uv(only_binary=only_binary, interpreter=None) if only_binary else None
        if result is not None and result.exit_code == 0:
            return self._parse(result)
        may_build = self._settings.allows_sdist("*") and (result is None or _lacks_wheels(result.errors))
        if may_build:
            minor = self._target.python.short
            interpreter = find_interpreter(minor, self._store)
            if interpreter is not None:
                built = self._uv(only_binary=False, interpreter=interpreter)
                if built.exit_code == 0:
                    lock = self._parse(built)
                    self._report_sdists(lock)
                    return lock
                result = result if result is not None and not _is_build_failure(built.errors) else built
            elif result is None:
                raise SdistError(
                    f"{self._given.origin} has sources to build, and there is no Python {minor} here to ask"
                    " them what they require",
                    hint=f"Install Python {minor} beside this one, or name wheels instead.",
                )
        elif result is None:
            raise NoWheel(
                f"{self._given.origin} names sources, and only-binary forbids to build them",
                hint="Name wheels instead, or allow the builds.",
            )
        assert result is not None
        error = self._error(result)
        if isinstance(error, AuthError) and self._ask_keyring():
            return self.run()
        raise error

    def _ask_keyring(self) -> bool:
        """Puts what keyring has into the URLs of indexes that carry no password; whether that changed any."""
        if self._settings.uv_configuration or self._asked:
            return False
        self._asked = True
        credentials = self._indexes.credentials

        def completed(url: str) -> str:
            if not url.startswith(("http:", "https:")):
                return url
            clean, known = credentials.for_url(url)
            found = credentials.from_keyring(clean, known) if known is None or not known.password else None
            if found is None:
                return url
            secret = f"{quote(found.username, safe='')}:{quote(found.password, safe='')}@"
            return clean.replace("://", "://" + secret, 1)

        main = self._settings.index_url or builtin_index_url(self._store)
        before = self._settings
        self._settings = replace(
            before,
            index_url=completed(main),
            extra_index_urls=tuple(map(completed, before.extra_index_urls)),
        )
        return (self._settings.index_url, self._settings.extra_index_urls) != (
            main,
            before.extra_index_urls,
        )

    def _report_sdists(self, lock: Lock) -> None:
        names = [
            str(package)
            for package in lock.packages
            if package.sdist is not None and best_wheel(package.wheels, self._target) is None
        ]
        if names:
            logger.warning(
                "%s: no wheel fits %s, so an sdist is locked and will be built",
                ", ".join(names),
                self._target.platform,
            )

    def _uv(self, *, only_binary: bool, interpreter: str | None) -> UvResult:
        target, settings, given = self._target, self._settings, self._given
        arguments = ["pip", "compile", "--format", "pylock.toml", "--no-header", "--no-annotate"]
        arguments += ["--python-version", str(target.python)]
        platform = python_platform(target)
        if platform is not None:
            arguments += ["--python-platform", platform]
        else:
            arguments.append("--universal")
        # Without one named, uv asks every interpreter on this machine for its version.
        arguments += ["--python", interpreter or sys.executable]
        if only_binary:
            arguments += ["--only-binary", ":all:"]
        else:
            for name in settings.only_binary:
                arguments += ["--only-binary", name]
            for name in settings.no_binary:
                arguments += ["--no-binary", name]
        if settings.pre:
            arguments += ["--prerelease", "allow"]
        if not settings.uv_configuration:
            arguments += ["--index-strategy", "unsafe-best-match"]
        if self._refresh:
            arguments.append("--refresh")
        for path in settings.build_constraints:
            arguments += ["--build-constraints", path]
        for path in settings.constraints:
            arguments += ["--constraints", path]
        with tempfile.TemporaryDirectory(prefix="wain-lock-") as name:
            folder = Path(name)
            environ = self._environment(folder)
            if settings.no_index and "UV_DEFAULT_INDEX" not in environ:
                arguments.append("--no-index")
            if given.constraints:
                (folder / "constraints.txt").write_text(_as_text(given.constraints), "utf-8")
                arguments += ["--constraints", str(folder / "constraints.txt")]
            if self._preferences is not None and self._upgrade != []:
                arguments += self._preference_arguments(folder)
            if given.project:
                arguments.append(given.origin)
                for extra in given.extras:
                    arguments += ["--extra", extra]
                for group in given.groups:
                    arguments += ["--group", group]
                place = self._back_end_s_copy(folder) if given.dynamic else given.folder
                return run_uv(arguments, environ=environ, folder=place, stop=self._stop)
            arguments.append("-")
            text = _as_text(given.lines)
            return run_uv(arguments, environ=environ, folder=given.folder, given=text, stop=self._stop)

    def _back_end_s_copy(self, folder: Path) -> Path:
        """A copy of the project for its back end, which may write beside the sources (setuptools' `*.egg-info`).

        A project whose dependencies stand beside it stays where it is: their paths count from there.
        """
        if read_pyproject(self._given.folder).get("tool", {}).get("uv", {}).get("sources"):
            return self._given.folder
        (folder / "project").mkdir()
        return copy_project(project_sources(self._given.folder), folder / "project")

    def _preference_arguments(self, folder: Path) -> list[str]:
        assert self._preferences is not None
        lines = {
            f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n'
            for package in self._preferences.packages
            if package.version
            and re.fullmatch(r"[A-Za-z0-9.!+_-]+", package.version)
            and not package.directory
            and (not package.marker or evaluate_marker(package.marker, self._target, frozenset(), frozenset()))
        }
        path = folder / "pylock.toml"
        path.write_text('lock-version = "1.0"\ncreated-by = "wain"\n' + "\n".join(sorted(lines)), "utf-8")
        arguments = ["--output-file", str(path)]
        for name in self._upgrade or ():
            arguments += ["--upgrade-package", name]
        return arguments

    def _environment(self, folder: Path) -> dict[str, str]:
        settings = self._settings
        environ = uv_environment(own_configuration=settings.uv_configuration)
        name = f"{self._target.python.short}-{self._target.platform.architecture}"
        environ["UV_CACHE_DIR"] = str(self._store.uv_folder(name))
        if self._indexes.transport.offline:
            environ["UV_OFFLINE"] = "1"
        if settings.cert:
            environ["SSL_CERT_FILE"] = str(settings.cert)
        elif not settings.uv_configuration:
            # The authorities that this machine trusts, as pip and wain's own requests have them; uv brings its own.
            environ.setdefault("UV_SYSTEM_CERTS", "true")
        if settings.client_cert:
            environ["SSL_CLIENT_CERT"] = str(settings.client_cert)
        if settings.proxy:
            for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                environ.pop(variable.lower(), None)
                environ[variable] = settings.proxy
        if settings.trusted_hosts:
            environ["UV_INSECURE_HOST"] = " ".join(settings.trusted_hosts)
        if settings.timeout_seconds is not None:
            environ["UV_HTTP_TIMEOUT"] = str(max(1, round(settings.timeout_seconds)))
        if settings.retries is not None:
            environ["UV_HTTP_RETRIES"] = str(settings.retries)
        if settings.keyring_provider == "subprocess":
            environ["UV_KEYRING_PROVIDER"] = "subprocess"
        if settings.uv_configuration:
            return environ
        indexes = list(settings.extra_index_urls) if not settings.no_index else []
        links = self._present_links()
        local = local_folders(links, self._given.folder)
        (folder / "links").mkdir()
        if local and write_index(list(local.values()), folder / "links", self._store):
            links = [link for link in links if link not in local]
            indexes.insert(0, (folder / "links").as_uri())
        if settings.no_index and indexes:
            environ["UV_DEFAULT_INDEX"] = indexes.pop()
        elif settings.index_url and not settings.no_index:
            environ["UV_DEFAULT_INDEX"] = _uv_location(settings.index_url, self._given.folder)
        if indexes:
            environ["UV_INDEX"] = " ".join(_uv_location(url, self._given.folder) for url in indexes)
        if links:
            places = [_uv_location(link, self._given.folder) for link in links]
            environ["UV_FIND_LINKS"] = ",".join(place.replace(",", "%2C") for place in places)
        return environ

    def _present_links(self) -> list[str]:
        present = []
        for link in self._settings.find_links:
            local = not link.startswith(("http:", "https:", "file:"))
            if local and not (self._given.folder / Path(link).expanduser()).exists():
                logger.warning("%s of find-links does not exist and is left out", link)
            else:
                present.append(link)
        return present

    def _parse(self, result: UvResult) -> Lock:
        text = result.output
        lock = parse_pylock(text, self._given.folder.absolute() / "pylock.toml")
        kept = tuple(
            replace(package, marker=None)
            for package in lock.packages
            if not package.marker or evaluate_marker(package.marker, self._target, frozenset(), frozenset())
        )
        completed = tuple(self._completed(package) for package in kept)
        return replace(lock, packages=completed, path=None)

    def _completed(self, package: LockedPackage) -> LockedPackage:
        return replace(
            package,
            wheels=tuple(map(_with_size, package.wheels)),
            sdist=_with_size(package.sdist) if package.sdist else None,
            archive=_with_size(package.archive) if package.archive else None,
        )

    def _error(self, result: UvResult) -> WainError:
        text = result.errors
        reason = _reason(text)
        if "network was disabled" in text or "--offline" in text:
            return Offline(
                f"{self._given.origin} cannot be resolved without the network: {reason}",
                hint="Run it once without --offline, or lock first with wain lock.",
            )
        if re.search(r"authentication credentials|\b(401|403) (Unauthorized|Forbidden)", text):
            return AuthError(
                f"an index refuses the credentials: {reason}",
                hint="Give them in the index's URL, a netrc file or keyring.",
            )
        if missing := re.search(r"[Bb]ecause (\S+) was not found in the (?:package registry|provided)", text):
            name = normalize_name(missing[1])
            if refused := self._refused(name):
                return refused
            return UnknownDistribution(
                f"no index has a distribution {name}, which {self._given.origin} needs",
                hint="Check the spelling, and whether --index-url or --find-links is right.",
            )
        if "No solution found" not in text and re.search(r"[Ff]ailed to (fetch|download)|error sending", text):
            return TransferError(reason, hint="Check the address and the connection.")
        if "Distribution not found at" in text:
            return ResolutionError(
                f"{self._given.origin} names a file that is not there: {reason}", hint="Check the path."
            )
        if _lacks_wheels(text):
            return self._no_wheel(text, reason)
        if _is_build_failure(text):
            return SdistError(reason, hint="Name a version that has wheels.")
        return ResolutionError(
            f"{self._given.origin} cannot be resolved for {self._target}: {reason}",
            hint="Loosen a requirement, or choose another Python.",
        )

    def _refused(self, name: str) -> AuthError | None:
        """The error of an index that refuses to say whether it has a name: uv passes such an index over."""
        try:
            self._indexes.has(name, keyring=False)
        except AuthError as error:
            return error
        except WainError:
            pass
        return None

    def _no_wheel(self, text: str, reason: str) -> WainError:
        lines = []
        for name in _names_without_wheels(text):
            try:
                sources = self._indexes.links(name)
            except WainError:
                continue
            tags = sorted(
                {
                    "-".join(link.filename.removesuffix(".whl").split("-")[1:])
                    for _, links in sources
                    for link in links
                    if link.filename.endswith(".whl")
                },
                key=_version_order,
                reverse=True,
            )
            sdists = any(not link.filename.endswith(".whl") for _, links in sources for link in links)
            exist = f"the newest are {', '.join(tags[:8])}" if tags else "there are none"
            if sdists:
                exist += ", and sdists"
            lines.append(f"{name} has no wheel for {self._target}; of its wheels {exist}")
        minor = self._target.python.short
        return NoWheel(
            "; ".join(lines) or f"no wheel fits {self._target}: {reason}",
            hint=f"Choose another version or another Python; an sdist is built only where Python {minor} is on"
            " this machine and only-binary does not forbid it.",
        )


def _version_order(text: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"[.-]", text)]


def _uv_location(text: str, folder: Path) -> str:
    """An index or find-links as uv's variables take it: no white space, paths absolute."""
    if text.startswith(("http:", "https:", "file:")):
        return text
    path = (folder / Path(text).expanduser()).absolute()
    return "file://" + quote(str(path))


def _as_text(lines: Sequence[RequirementLine]) -> str:
    return "".join(_line_text(line) + "\n" for line in lines)


def _line_text(line: RequirementLine) -> str:
    if line.url is None or " @ " in line.text or "@" in line.text.partition(":")[0]:
        return line.text
    extras = re.search(r"\[[^\]]+\]$", line.text.partition(";")[0].strip())
    body = line.url if extras is None or line.url.endswith(extras[0]) else line.url + extras[0]
    return ("-e " if line.editable else "") + body + (f" ; {line.marker}" if line.marker else "")


def _with_size(file: LockedFile) -> LockedFile:
    if file.size_bytes is not None or file.path is None:
        return file
    try:
        return replace(file, size_bytes=Path(file.path).stat().st_size)
    except OSError:
        return file


def _reason(text: str) -> str:
    """uv's complaint on one line, without its hints for its own flags."""
    body = re.split(r"\n\s*hint:", text, maxsplit=1)[0]
    lines = [
        re.sub(r"^(error|cause|×|├─▶|╰─▶|│|\s)+:?\s*", "", line)
        for line in body.splitlines()
        if not line.startswith("warning:")
    ]
    told = " ".join(line for line in lines if line).removeprefix("No solution found when resolving dependencies ")
    return told[:_MAX_REASON] or "uv gave no reason"


def _lacks_wheels(text: str) -> bool:
    return bool(re.search(r"no (usable |compatible )?wheels|no wheels with|building from source is disabled", text))


def _names_without_wheels(text: str) -> list[str]:
    found = re.findall(
        r"(?:all versions of )?([A-Za-z0-9._-]+?)(?:\[[^\]]*\])?(?:[=<>!~][^\s,]*)?"
        r" (?:has|have) no (?:usable |compatible )?wheels",
        text,
    )
    found += re.findall(r"[Ww]heels are required for `([^`]+)`", text)
    return list(dict.fromkeys(normalize_name(name) for name in found))[:10]


def _is_build_failure(text: str) -> bool:
    return bool(re.search(r"[Ff]ailed to build|[Bb]uild backend|Failed to download and build", text))


def _warn_of_several_indexes(lock: Lock, settings: IndexSettings, indexes: PackageIndexes) -> None:
    """One warning with all names that several indexes have: the best version wins, whoever serves it."""
    if settings.uv_configuration or indexes.transport.offline or settings.no_index or not settings.extra_index_urls:
        return
    names = sorted({package.name for package in lock.packages if package.wheels or package.sdist})
    try:
        with ThreadPoolExecutor(8) as pool:
            found = dict(zip(names, pool.map(indexes.has, names), strict=True))
    except AuthError:
        raise  # uv passes over an index that refuses: what it has chosen may not be what is meant
    except WainError as error:
        logger.info("which indexes have which package was not found out: %s", redact_text(error.message))
        return
    several = [name for name in names if len(found[name]) > 1]
    if several:
        places = sorted({place for name in several for place in found[name]})
        shown = ", ".join(several[:_MAX_NAMES])
        if len(several) > _MAX_NAMES:
            shown += f" and {len(several) - _MAX_NAMES} more (-v names them)"
            logger.info("on several indexes: %s", ", ".join(several))
        logger.warning(
            "%s on several indexes (%s), and the best version of all is taken: %s",
            "1 package is" if len(several) == 1 else f"{len(several)} packages are",
            ", ".join(places),
            shown,
        )
