"""What is installed in an environment of a stage: what satisfies a requirement, what stays, and what removing leaves.

Sources: PEP 508; the recording installed projects specification; pip's documentation of upgrades.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.filework import CommandFails
from wain.install import Scheme
from wain.platforms import Target
from wain.pythons import Environment
from wain.settings import normalize_name
from wain.tree import Tree, joined
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.requirements import Requirements


class Installed(Struct, frozen=True, kw_only=True):
    version: str
    site: str
    info: str
    """Its metadata's path."""


_INFO = re.compile(r"(.+?)-([^-]+)(?:-py3(?:\.\d+)?)?\.(?:dist|egg)-info\Z")


def installed_in(tree: Tree, sites: Iterable[str]) -> dict[str, Installed]:
    found: dict[str, Installed] = {}
    for site in sites:
        node = tree.find(site)
        for name in sorted((node.children if node is not None else None) or {}):
            if match := _INFO.match(name):
                key = normalize_name(match[1])
                found.setdefault(key, Installed(version=match[2], site=site, info=f"{site}/{name}"))
    return found


def all_satisfied(requirements: Requirements, installed: Mapping[str, Installed], target: Target) -> bool:
    from packaging.requirements import Requirement

    if not installed:
        return False
    for line in requirements.lines:
        if line.url is not None or line.name is None or line.extras:
            return False
        requirement = Requirement(line.text)
        if requirement.marker is not None and not requirement.marker.evaluate(_markers(target, "")):
            continue
        there = installed.get(line.name)
        if there is None or not _allows(requirement.specifier, there.version):
            return False
    limits = {line.name: line for line in requirements.constraints if line.name}
    return not any(
        line.name in limits and not _allows(Requirement(limits[line.name].text).specifier, installed[line.name].version)
        for line in requirements.lines
        if line.name in installed
    )


def _markers(target: Target, extra: str) -> dict[str, str | AbstractSet[str]]:
    return {**{name: str(value) for name, value in target.markers().items()}, "extra": extra}


def _allows(specifier: object, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    assert isinstance(specifier, SpecifierSet)
    try:
        return specifier.contains(version, prereleases=True)
    except ValueError:  # InvalidVersion, and numbers of too many digits
        return False


def stays(
    wheel: Wheel,
    wheels: Sequence[Wheel],
    requirements: Requirements,
    installed: Mapping[str, Installed],
    *,
    upgrade: bool,
    eager: bool,
    target: Target,
) -> bool:
    """Whether what is installed under a wheel's name is left alone, as pip leaves what satisfies all who ask."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    there = installed.get(wheel.name)
    if there is None:
        return False
    try:
        if Version(there.version) == Version(wheel.version):
            return True
    except ValueError:  # InvalidVersion, and numbers of too many digits
        return False
    asked = [line for line in requirements.lines if line.name == wheel.name]
    if any(line.url is not None for line in asked) or (upgrade and (asked or eager)):
        return False
    texts = [line.text for line in (*asked, *(one for one in requirements.constraints if one.name == wheel.name))]
    specifiers = [Requirement(text).specifier for text in texts]
    extras = {line.name: line.extras for line in requirements.lines if line.name}
    for other in wheels:
        for text in other.metadata.requires:
            requirement = Requirement(text)
            if normalize_name(requirement.name) != wheel.name:
                continue
            marker = requirement.marker
            if marker is not None and not any(
                marker.evaluate(_markers(target, extra)) for extra in ("", *extras.get(other.name, ()))
            ):
                continue
            specifiers.append(requirement.specifier)
    return all(_allows(specifier, there.version) for specifier in specifiers)


def uninstall(tree: Tree, name: str, there: Installed, scheme: Scheme, environment: Environment) -> None:
    if there.site not in (scheme.purelib, scheme.platlib):
        inside = there.site.startswith(f"{environment.root}/")
        if environment.is_venv or not inside or scheme.purelib != environment.scheme.purelib:
            return
    record = tree.text(f"{there.info}/RECORD")
    if record is None:
        raise CommandFails(f"pip cannot uninstall {name} {there.version}: its RECORD is not there")
    folders: set[str] = set()
    # pip removes what the entry points are called, too, whoever made it.
    for script in _scripts(tree.text(f"{there.info}/entry_points.txt") or ""):
        if (node := tree.get(f"{scheme.scripts}/{script}")) is not None and node.kind != "directory":
            tree.remove(f"{scheme.scripts}/{script}")
    for row in csv.reader(record.splitlines()):
        if not row:
            continue
        path = joined(there.site, row[0])
        names = [path]
        if path.endswith(".py"):
            folder, _, module = path.rpartition("/")
            names += [
                f"{folder}/__pycache__/{found}"
                for found in (_names(tree, f"{folder}/__pycache__"))
                if found.startswith(f"{module.removesuffix('.py')}.cpython-")
            ]
        for one in names:
            if tree.get(one) is not None and tree.get(one).kind != "directory":  # type: ignore[union-attr]
                tree.remove(one)
                folders.add(posixpath.dirname(one))
    if tree.get(there.info) is not None:
        tree.remove(there.info)
    for folder in sorted(folders, key=len, reverse=True):
        while folder not in (there.site, "", scheme.scripts) and folder.startswith(f"{there.site}/"):
            node = tree.get(folder)
            if node is None or node.children:
                break
            tree.remove(folder)
            folder = posixpath.dirname(folder)


def _scripts(text: str) -> list[str]:
    """The names of the scripts that entry points make."""
    found = []
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip().strip("[]").strip()
        elif "=" in line and section in {"console_scripts", "gui_scripts"}:
            name = line.partition("=")[0].strip()
            if name and "/" not in name and name not in {".", ".."}:
                found.append(name)
    return found


def _names(tree: Tree, folder: str) -> list[str]:
    node = tree.get(folder)
    return list(node.children) if node is not None and node.children else []
