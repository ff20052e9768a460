"""Debian's package lists: versions, relations, and which packages a request needs.

Sources: Debian policy, chapter 5 (control files), 5.6.12 (versions) and 7 (relations).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from wain.digest import Digest
from wain.errors import DebianError, ImageError

MAX_DEB_BYTES = 4 << 30

NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
_RELATION = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9+.-]*)(?::(?P<arch>[a-z0-9-]+))?"
    r"(?:\s*\((?P<operator><<|<=|=|>=|>>|<|>)\s*(?P<version>[^\s)]+)\s*\))?"
    r"(?:\s*\[[^]]*\])?"
)

# What only serves maintainer scripts, none of which runs: a dependency on it is taken as met.
SCRIPT_ONLY = frozenset(
    "adduser awk cdebconf debconf debconf-2.0 dpkg init-system-helpers install-info mawk ucf update-inetd".split()
)
# The same, where only one package's scripts want it.
_SCRIPT_ONLY_OF = frozenset((("ca-certificates", "openssl"),))


def version_key(version: str) -> tuple[object, ...]:
    """A key that sorts versions as dpkg does: `~` before the end, letters before all else, numbers by value.

    >>> version_key("1.0~rc1") < version_key("1.0") < version_key("1.0+b1") < version_key("1:0.1")
    True
    """
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return (_number(epoch), _part_key(upstream), _part_key(revision))


def _part_key(text: str) -> tuple[object, ...]:
    pairs = [
        ((*(_weight(char) for char in letters), 0), _number(digits))
        for letters, digits in re.findall(r"([^0-9]*)([0-9]*)", text)
    ]
    while pairs and pairs[-1] == ((0,), (0, "")):
        pairs.pop()
    return (*pairs, ((0,), (0, "")))


def _number(digits: str) -> tuple[int, str]:
    """What sorts decimal numbers by value, however long they are."""
    significant = digits.lstrip("0")
    return (len(significant), significant)


def _weight(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isascii() and char.isalpha() else ord(char) + 256


class Relation(Struct, frozen=True):
    """One alternative of a dependency: a name and perhaps a bound on its version."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name

    def fits(self, version: str | None) -> bool:
        """Whether a package of that version meets it; None for a provided name without a version."""
        if not self.operator:
            return True
        if version is None:
            return False
        have, want = version_key(version), version_key(self.version)
        match self.operator:
            case "<<":
                return have < want
            case "<=" | "<":
                return have <= want
            case "=":
                return have == want
            case ">=" | ">":
                return have >= want
            case _:
                return have > want


def parse_relations(text: str, *, what: str = "a package") -> tuple[tuple[Relation, ...], ...]:
    """The groups of a relation field, each the alternatives in order.

    :raises DebianError: when the text is no relation field.
    """
    groups = []
    for group in text.split(","):
        if not group.strip():
            continue
        alternatives = []
        for item in group.split("|"):
            match = _RELATION.fullmatch(item.strip())
            if match is None:
                raise DebianError(
                    f"{what} has a relation that is none: {item.strip()[:80]!r}",
                    hint="The package list is damaged; use another mirror.",
                )
            alternatives.append(Relation(match["name"], match["operator"] or "", match["version"] or ""))
        groups.append(tuple(alternatives))
    return tuple(groups)


def parse_fields(text: str) -> dict[str, str]:
    """The fields of one stanza; continuation lines stay, each after a line feed. Names keep their case."""
    fields: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        if line[0] in " \t":
            lines.append(line)
            continue
        name, colon, value = line.partition(":")
        lines = [value.strip()]
        if colon:
            fields[name] = lines
    return {name: "\n".join(lines) for name, lines in fields.items()}


class Package(Struct, frozen=True, kw_only=True):
    """A stanza of a package list."""

    name: str
    version: str
    architecture: str
    origin: str
    """`main` or `security`: which mirror has it."""
    filename: str
    """Path below the mirror's root."""
    size_bytes: int
    digest: Digest
    depends: tuple[tuple[Relation, ...], ...] = ()
    """Pre-Depends and Depends."""
    provides: tuple[Relation, ...] = ()
    conflicts: tuple[Relation, ...] = ()
    """Conflicts and Breaks."""

    @classmethod
    def parse(cls, text: str, *, origin: str) -> Package:
        """:raises DebianError: when a field that is needed is missing or malformed."""
        fields = parse_fields(text)
        name = fields.get("Package", "")
        what = f"the package list's entry of {name[:80] or 'an unnamed package'}"
        filename, size, version = fields.get("Filename", ""), fields.get("Size", ""), fields.get("Version", "")
        if (
            not NAME.fullmatch(name)
            or not _VERSION.fullmatch(version)
            or not re.fullmatch(r"[A-Za-z0-9_.+~:%/-]+\.deb", filename)
            or ".." in filename.split("/")
            or filename.startswith("/")
            or not re.fullmatch(r"[0-9]{1,12}", size)
            or int(size) > MAX_DEB_BYTES
        ):
            raise DebianError(f"{what} is malformed", hint="The package list is damaged; use another mirror.")
        try:
            digest = Digest("sha256:" + fields.get("SHA256", ""))
        except ImageError as error:
            raise DebianError(f"{what} has no SHA256", hint="Use another mirror.") from error
        depends = ", ".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
        conflicts = ", ".join(filter(None, (fields.get("Conflicts"), fields.get("Breaks"))))
        return cls(
            name=name,
            version=version,
            architecture=fields.get("Architecture", ""),
            origin=origin,
            filename=filename,
            size_bytes=int(size),
            digest=digest,
            depends=parse_relations(depends, what=what),
            provides=tuple(group[0] for group in parse_relations(fields.get("Provides", ""), what=what)),
            conflicts=tuple(group[0] for group in parse_relations(conflicts, what=what)),
        )

    def meets(self, relation: Relation) -> bool:
        """Whether it is, or provides, what the relation asks for."""
        if self.name == relation.name and relation.fits(self.version):
            return True
        return any(
            provided.name == relation.name and relation.fits(provided.version or None) for provided in self.provides
        )


class PackageIndex:
    """Package lists of several pockets as one; of each name only the newest version counts.

    Only what is asked for is parsed: a list has seventy thousand entries, a base forty.

    :param lists: each the origin of its packages and the list's text.
    """

    def __init__(self, lists: Iterable[tuple[str, bytes]]) -> None:
        self._lists: list[tuple[str, bytes, list[int]]] = []
        self._places: dict[bytes, list[tuple[int, int]]] = {}
        self._providers: dict[bytes, list[tuple[int, int]]] = {}
        self._parsed: dict[str, Package | None] = {}
        for number, (origin, text) in enumerate(lists):
            starts = []
            for match in re.finditer(rb"^Package: *(\S+) *$", text, re.MULTILINE):
                starts.append(match.start())
                self._places.setdefault(match[1], []).append((number, match.start()))
            self._lists.append((origin, text, starts))
            for match in re.finditer(rb"^Provides: *(.+)$", text, re.MULTILINE):
                place = bisect_right(starts, match.start()) - 1
                if place < 0:
                    continue
                for name in re.findall(rb"(?:^|,)\s*([a-z0-9][a-z0-9+.-]+)", match[1]):
                    self._providers.setdefault(name, []).append((number, starts[place]))

    def _stanza(self, number: int, start: int) -> str:
        text = self._lists[number][1]
        end = text.find(b"\n\n", start)
        return text[start : end if end >= 0 else len(text)].decode("utf-8", "replace")

    def newest(self, name: str) -> Package | None:
        """The newest version of the package; None when there is none of that name."""
        if name not in self._parsed:
            found = [
                Package.parse(self._stanza(number, start), origin=self._lists[number][0])
                for number, start in self._places.get(name.encode(), ())
            ]
            self._parsed[name] = max(found, key=lambda package: version_key(package.version), default=None)
        return self._parsed[name]

    def providers(self, relation: Relation) -> list[Package]:
        """The newest packages that provide what is asked for, by name."""
        names = set()
        for number, start in self._providers.get(relation.name.encode(), ()):
            text = self._lists[number][1]
            line = text[start : text.index(b"\n", start)]
            names.add(line.partition(b":")[2].strip().decode("utf-8", "replace"))
        packages = (self.newest(name) for name in sorted(names))
        return [package for package in packages if package is not None and package.meets(relation)]


def resolve(index: PackageIndex, names: Sequence[str], *, present: Sequence[Package] = ()) -> tuple[Package, ...]:
    """The packages of these names with all they depend on, by name; those `present` are left out.

    Of alternatives, one that is chosen already wins, then the first that can be had. What only serves
    maintainer scripts is not followed.

    :raises DebianError: when a name is unknown, a dependency cannot be met, or two packages exclude each other.
    """
    chosen: dict[str, Package] = {package.name: package for package in present}
    queue: list[Package] = []

    def choose(package: Package) -> None:
        if package.name not in chosen:
            chosen[package.name] = package
            queue.append(package)

    for name in names:
        package = index.newest(name)
        if package is None:
            providers = index.providers(Relation(name))
            if len(providers) != 1:
                some = ", ".join(item.name for item in providers[:8])
                raise DebianError(
                    f"Debian has no package {name}",
                    hint=f"It is provided by {some}: name one of them." if some else "Check its name and the suite.",
                )
            package = providers[0]
        choose(package)
    while queue:
        package = queue.pop(0)
        for group in package.depends:
            if any(item.name in SCRIPT_ONLY or (package.name, item.name) in _SCRIPT_ONLY_OF for item in group) or any(
                have.meets(item) for item in group for have in _having(chosen, item)
            ):
                continue
            found = _first(index, group)
            if found is None:
                raise DebianError(
                    f"{package.name} {package.version} depends on {' | '.join(map(str, group))}, which the mirror"
                    " does not have",
                    hint="The mirror's pockets do not fit each other; try again later or use another mirror.",
                )
            choose(found)
    _check_conflicts(chosen)
    there = {package.name for package in present}
    return tuple(chosen[name] for name in sorted(chosen) if name not in there)


def _having(chosen: Mapping[str, Package], relation: Relation) -> Iterable[Package]:
    if relation.name in chosen:
        return (chosen[relation.name],)
    return chosen.values()


def _first(index: PackageIndex, group: Sequence[Relation]) -> Package | None:
    for relation in group:
        package = index.newest(relation.name)
        if package is not None and relation.fits(package.version):
            return package
        providers = index.providers(relation)
        if providers:
            return providers[0]
    return None


def _check_conflicts(chosen: Mapping[str, Package]) -> None:
    for package in chosen.values():
        for relation in package.conflicts:
            for other in chosen.values():
                if other.name != package.name and other.meets(relation):
                    raise DebianError(
                        f"{package.name} {package.version} cannot stand beside {other.name} {other.version}",
                        hint="Leave one of them out of the setting `packages`.",
                    )
