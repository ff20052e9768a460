"""requirements.txt as pip reads it: lines, includes, constraints, hashes and options.

Source: pip's documentation, "Requirements File Format".
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import field

from wain.errors import LockError, ProjectError
from wain.pipconf import Setting
from wain.records import Record
from wain.settings import normalize_name

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_MAX_FILE_BYTES = 16 << 20
_MAX_FILES = 200
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"(sha256|sha384|sha512):([0-9a-fA-F]+)")
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}

# Option -> the name of the setting; those that take a value, and those that do not.
_VALUED = {
    "-i": "index-url",
    "--index-url": "index-url",
    "--pypi-url": "index-url",
    "--extra-index-url": "extra-index-url",
    "-f": "find-links",
    "--find-links": "find-links",
    "--trusted-host": "trusted-host",
    "--no-binary": "no-binary",
    "--only-binary": "only-binary",
}
_FLAGS = {"--no-index": "no-index", "--pre": "pre", "--prefer-binary": "prefer-binary"}
_IGNORED = frozenset({"--require-hashes", "--use-feature"})


class RequirementLine(Record, frozen=True, kw_only=True):
    """One requirement, and where it stands."""

    unshown: ClassVar = ("text", "url")

    text: str
    """As written, without comment and options; may hold credentials."""
    origin: str
    """`requirements.txt:3`."""
    name: str | None = None
    """Normalised; None where the source (a folder, a repository, a file) decides it."""
    specifier: str = ""
    extras: tuple[str, ...] = ()
    marker: str | None = None
    url: str | None = None
    """Of a direct reference, or the path of a folder or file."""
    editable: bool = False
    hashes: tuple[str, ...] = ()
    """`algorithm:hex`."""

    @property
    def pinned_version(self) -> str | None:
        """The one version that it allows (`==1.2`, no wildcard); None where there are more."""
        match = re.fullmatch(r"\s*===?\s*([^\s,*]+)\s*", self.specifier)
        return match[1] if match and self.url is None else None


class Requirements(Record, frozen=True, kw_only=True):
    """What a requirements file and all that it includes say."""

    unshown: ClassVar = ("options",)

    path: Path
    lines: tuple[RequirementLine, ...] = ()
    constraints: tuple[RequirementLine, ...] = ()
    options: Mapping[str, Setting] = field(default_factory=dict)
    """Index options that stand in the files (`index-url`, `find-links`...)."""
    require_hashes: bool = False
    files: tuple[Path, ...] = ()
    """All files that were read."""

    @property
    def is_locked(self) -> bool:
        """Whether it is all pinned and hashed, so that it needs no resolution."""
        return bool(self.lines) and all(
            line.hashes and (line.pinned_version or line.url) and not line.editable for line in self.lines
        )

    @property
    def hashes(self) -> dict[str, frozenset[str]]:
        """Name -> the hashes that the user allows for it, from requirements and constraints."""
        allowed: dict[str, set[str]] = {}
        for line in (*self.lines, *self.constraints):
            if line.hashes and line.name:
                allowed.setdefault(line.name, set()).update(line.hashes)
        return {name: frozenset(texts) for name, texts in allowed.items()}


def read_requirements(path: Path, *, environ: Mapping[str, str] | None = None) -> Requirements:
    """A requirements file with all that it includes by -r and -c.

    :raises ProjectError: when a file is missing, malformed, includes itself too deep, or has an option that
        wain does not know.
    """
    reader = _Reader(os.environ if environ is None else environ)
    reader.read(path, constraint=False)
    return Requirements(
        path=path,
        lines=tuple(reader.lines),
        constraints=tuple(reader.constraints),
        options=reader.options,
        require_hashes=reader.require_hashes,
        files=tuple(reader.seen),
    )


def parse_requirement(text: str, origin: str, *, folder: Path | None = None) -> RequirementLine:
    """One requirement: `name[extra]>=1; marker`, `name @ URL`, a URL, or a path.

    :param folder: what a relative path is relative to.
    :raises ProjectError: when it is malformed.
    """
    from packaging.requirements import Requirement as _Requirement

    url, marker = _direct(text)
    if url is not None:
        return _direct_line(text, url, marker, origin, folder)
    try:
        requirement: Requirement = _Requirement(text)
    except (ValueError, RecursionError):
        shown = re.sub(r"://[^\s/@]*@", "://", text)[:200]
        raise ProjectError(
            f"{origin}: {shown!r} is no requirement",
            hint="Write name, name==1.2, name>=1,<2 or name @ https://... .",
        ) from None  # packaging's error quotes the whole line, passwords too
    return RequirementLine(
        text=text,
        origin=origin,
        name=normalize_name(requirement.name),
        specifier=str(requirement.specifier),
        extras=tuple(sorted(normalize_name(extra) for extra in requirement.extras)),
        marker=str(requirement.marker) if requirement.marker else None,
        url=requirement.url,
    )


def _direct(text: str) -> tuple[str | None, str | None]:
    """URL or path, and marker, of a requirement that has no name of its own."""
    body, _, marker = text.partition(" ;") if " ;" in text else text.partition("; ")
    body = body.strip()
    if re.match(r"(?:[a-z]+\+)?(?:https?|file|ssh|git)://|file:", body) or re.match(r"(?:git|hg|svn|bzr)\+", body):
        return body, marker.strip() or None
    bare = body.partition("[")[0]
    if (
        bare in (".", "..")
        or bare.startswith(("./", "../", "/", "~/"))
        or ("/" in bare and "@" not in bare and "=" not in bare)
    ):
        return body, marker.strip() or None
    if bare.endswith((".whl", ".tar.gz", ".zip")) and "@" not in bare:
        return body, marker.strip() or None
    return None, None


def _direct_line(text: str, url: str, marker: str | None, origin: str, folder: Path | None) -> RequirementLine:
    from urllib.parse import unquote, urlsplit

    from wain.index_pages import distribution_of

    fragment = urlsplit(url).fragment if "://" in url else ""
    egg = re.search(r"egg=([A-Za-z0-9._-]+)", fragment)
    filename = unquote(url.partition("#")[0].rstrip("/").rpartition("/")[2])
    name = normalize_name(egg[1]) if egg else distribution_of(filename)
    hashes = tuple(
        f"{algorithm}:{digest.lower()}"
        for algorithm, digest in re.findall(r"(sha256|sha384|sha512)=([0-9a-fA-F]+)", fragment)
    )
    if "://" not in url and not url.startswith("file:") and folder is not None:
        url = str(folder / Path(url).expanduser())
    return RequirementLine(text=text, origin=origin, name=name, marker=marker, url=url, hashes=hashes)


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.lines: list[RequirementLine] = []
        self.constraints: list[RequirementLine] = []
        self.options: dict[str, Setting] = {}
        self.require_hashes = False
        self.seen: dict[Path, None] = {}

    def read(self, path: Path, *, constraint: bool, origin: str = "") -> None:
        if path in self.seen:
            return
        if len(self.seen) >= _MAX_FILES:
            raise ProjectError(f"{path}: more than {_MAX_FILES} files are included", hint="Include fewer files.")
        self.seen[path] = None
        for number, text in _logical_lines(_read(path, origin)):
            self._line(self._expand(text), f"{path.name}:{number}", path.parent, constraint)

    def _expand(self, text: str) -> str:
        return _VARIABLE.sub(lambda match: self._environ.get(match[1]) or match[0], text)

    def _line(self, text: str, origin: str, folder: Path, constraint: bool) -> None:
        if not text.startswith("-"):
            self._requirement(text, origin, folder, constraint)
            return
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ProjectError(f"{origin}: {error}", hint="Close the quotation.") from error
        while words:
            option, equals, value = words.pop(0).partition("=")
            if not equals and len(option) > 2 and option[0] == "-" and option[1] != "-":
                option, value, equals = option[:2], option[2:], "="
            if option in _FLAGS:
                self.options[_FLAGS[option]] = Setting(value="true", origin=origin)
                continue
            if option == "--require-hashes":
                self.require_hashes = True
                continue
            if not equals:
                value = words.pop(0) if words else ""
            if not value:
                raise ProjectError(f"{origin}: {option} needs a value", hint="Write it behind the option.")
            self._option(option, value, origin, folder, constraint)

    def _option(self, option: str, value: str, origin: str, folder: Path, constraint: bool) -> None:
        if option in ("-r", "--requirement", "-c", "--constraint"):
            if "://" in value:
                raise ProjectError(
                    f"{origin}: a requirements file at a URL is not read", hint="Copy it beside this one."
                )
            inner = constraint or option in ("-c", "--constraint")
            self.read(Path(os.path.normpath(folder / value)), constraint=inner, origin=origin)
        elif option in ("-e", "--editable"):
            line = parse_requirement(value, origin, folder=folder)
            self.lines.append(
                RequirementLine(
                    text=value,
                    origin=origin,
                    name=line.name,
                    marker=line.marker,
                    url=line.url or value,
                    editable=True,
                )
            )
        elif option in _VALUED:
            name = _VALUED[option]
            if name == "find-links" and "://" not in value:
                value = str(folder / value)
            before = self.options.get(name)
            if before is not None and name != "index-url":
                value = f"{before.value} {value}"
            self.options[name] = Setting(value=value, origin=origin)
        elif option not in _IGNORED:
            raise ProjectError(
                f"{origin}: the option {option} is not known", hint="Remove it, or give it to wain as a flag."
            )

    def _requirement(self, text: str, origin: str, folder: Path, constraint: bool) -> None:
        body, *options = re.split(r"\s(?=--?[a-z])", text)
        hashes = []
        for option in options:
            match = re.fullmatch(r"--hash[=\s]+(\S+)", option.strip())
            if match:
                hashes.append(_checked_hash(match[1], origin))
            elif not option.startswith(("--config-settings", "--global-option", "--config-setting", "-C")):
                shown = option.partition("=")[0].partition(" ")[0]
                raise ProjectError(
                    f"{origin}: a requirement has no option {shown}", hint="Only --hash may stand there."
                )
        line = parse_requirement(body.strip(), origin, folder=folder)
        line = RequirementLine(
            text=line.text,
            origin=origin,
            name=line.name,
            specifier=line.specifier,
            extras=line.extras,
            marker=line.marker,
            url=line.url,
            hashes=(*line.hashes, *hashes),
        )
        (self.constraints if constraint else self.lines).append(line)


def _checked_hash(text: str, origin: str) -> str:
    match = _HASH.fullmatch(text.strip("\"'"))
    if match is None or len(match[2]) != _HEX_DIGITS[match[1]]:
        raise ProjectError(
            f"{origin}: {text[:100]!r} is no hash", hint="Write --hash=sha256: and 64 hexadecimal digits."
        )
    return f"{match[1]}:{match[2].lower()}"


def _read(path: Path, origin: str) -> str:
    where = f"{origin}: " if origin else ""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProjectError(f"{where}{path} cannot be read: {error.strerror}", hint="Check the path.") from error
    if len(data) > _MAX_FILE_BYTES:
        raise ProjectError(f"{path} is larger than 16 MiB", hint="It is no requirements file.")
    if data.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    else:
        encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path} is no text in UTF-8", hint="Save it as UTF-8.") from error


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Line number and text of each logical line: continued lines joined, comments and blanks left out."""
    lines: list[tuple[int, str]] = []
    pending: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        start = start if pending else number
        is_comment = raw.lstrip().startswith("#")
        if raw.endswith("\\") and not is_comment:
            pending.append(raw[:-1])
            continue
        # A comment in the middle of a continued line ends the line, as with pip.
        pending.append("" if is_comment else raw)
        joined = _COMMENT.sub("", " ".join(piece.strip() for piece in pending)).strip()
        pending = []
        if joined:
            lines.append((start, joined))
    if pending and (joined := _COMMENT.sub("", " ".join(piece.strip() for piece in pending)).strip()):
        lines.append((start, joined))
    return lines


def refuse_unhashed(requirements: Requirements) -> None:
    """Holds --require-hashes to its word.

    :raises LockError: when it is set and a requirement has no hash.
    """
    bare = [line for line in requirements.lines if not line.hashes]
    if requirements.require_hashes and bare:
        raise LockError(
            f"{bare[0].origin}: {bare[0].name or 'a requirement'} has no hash, and --require-hashes is set",
            hint="Give each requirement its hashes, or lock with wain lock.",
        )
