"""What `pip install` and `uv pip install` in a Dockerfile do, done on a stage's tree.

pip's meaning holds: which environment a command belongs to, where that environment's pip puts things for its user, what
is there already and stays, what pip refuses. The wheels come from the store.

Sources: pip's user guide and its documentation of installation; PEP 508, PEP 668.
"""

from __future__ import annotations

import configparser
import itertools
import logging
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wain.actions import NeedsEngine, PipInstall
from wain.bases import BaseFacts
from wain.digest import Digest
from wain.filework import Actor, CommandFails, joined_raw
from wain.grouping import OVERFLOW_SLOTS, SLOTS, Item, group
from wain.install import PlannedFile, Scheme, colliding, plan_install
from wain.installers import is_pip, is_python
from wain.layers import Folder, Layer, wheel_layer
from wain.pipconf import Setting
from wain.platforms import Target
from wain.settings import IndexSettings, normalize_name
from wain.store import Store
from wain.tree import Node, Tree, joined, parts_of
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.requirements import RequirementLine, Requirements
    from wain.transport import Transport

log = logging.getLogger(__name__)

_INDEX_OPTIONS = frozenset(
    "index-url extra-index-url find-links no-index pre prefer-binary only-binary no-binary trusted-host cert "
    "client-cert proxy timeout retries keyring-provider".split()
)
_LISTS = frozenset({"extra-index-url", "find-links", "trusted-host", "only-binary", "no-binary"})
_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FOLDERS_LEFT = re.compile(r"(?:^|/)(?:-r|--requirement|-c|--constraint)[ =]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What installations need of the world around."""

    store: Store
    transport: Transport
    settings: Callable[[Mapping[str, Setting]], IndexSettings]
    """The index settings of this machine, with what the Dockerfile says over them."""
    progress: Callable[..., object] | None = None
    build_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """By id. They are seen by installations alone, and never stay."""


@dataclass(frozen=True, slots=True, eq=False)
class WheelFile:
    """A file of a wheel that is installed: its bytes, and the installation that it belongs to."""

    share: Share
    file: PlannedFile

    def open(self) -> BinaryIO:
        import io

        if self.file.member is None:
            return io.BytesIO(self.file.data or b"")
        if self.file.size_bytes < 1 << 20:
            return io.BytesIO(b"".join(self.file.wheel.chunks(self.file.member)))
        return _Chunks(self.file.wheel.chunks(self.file.member))  # type: ignore[return-value]


class _Chunks:
    """A reader over chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            held, self._held = self._held, b""
            return held + b"".join(self._chunks)
        while len(self._held) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        out, self._held = self._held[:size], self._held[size:]
        return out

    def close(self) -> None:
        self._held = b""

    def __enter__(self) -> _Chunks:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """Wheels that were installed together and may have a layer of their own."""

    wheels: tuple[Wheel, ...]
    scheme: Scheme
    count: int
    """How many files they have."""

    def layer(self, tree: Tree, store: Store) -> Layer:
        """The layer of exactly these files, with the folders as the tree has them."""
        folders = {}
        for path in plan_install(self.wheels, self.scheme).folders:
            node = tree.get(path)
            if node is not None and (node.mode, node.uid, node.gid) != (0o755, 0, 0):
                folders[path] = Folder(mode=node.mode, uid=node.uid, gid=node.gid)
        return wheel_layer(self.wheels, self.scheme, store=store, folders=folders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment that a command installs into."""

    scheme: Scheme
    sites: tuple[str, ...]
    """Where its Python looks for distributions, its own first."""
    root: str
    """`opt/venv`; of the system's, its prefix."""
    is_venv: bool
    managed: bool


def find_program(tree: Tree, name: str, env: Mapping[str, str], cwd: str) -> str | None:
    """Where a program is, as called: links not followed; None where there is none."""
    if "/" in name:
        candidates = [joined_raw(cwd, name)]
    else:
        path = env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        candidates = [f"{joined_raw(cwd, folder)}/{name}" for folder in path.split(":") if folder]
    for candidate in candidates:
        node = tree.find(candidate)
        if node is not None and node.kind == "file" and node.mode & 0o111:
            return "/" + "/".join(part for part in parts_of(candidate))
    return None


def _venv_root(tree: Tree, program: str) -> str | None:
    """The virtual environment that a program in its bin folder belongs to."""
    folder = posixpath.dirname(program)
    for start in (folder, "/" + tree.resolve(folder)):
        root = posixpath.dirname(start)
        if posixpath.basename(start) == "bin" and tree.find(f"{root}/pyvenv.cfg") is not None:
            return root
    return None


def environment_of(
    tree: Tree, program: str, facts: BaseFacts, env: Mapping[str, str], cwd: str, *, is_uv: bool = False
) -> Environment:
    """The environment of a `pip`, `python` or, for uv, of the variables.

    :raises CommandFails: when there is no such program.
    :raises NeedsEngine: when it is another Python than the one that is known.
    """
    minor = facts.python.short
    name = program.rpartition("/")[2]
    digits = re.sub(r"^[a-z]+", "", name)
    if digits not in ("", "3", minor):
        raise NeedsEngine(f"{name} is not the base's Python {minor}")
    found = find_program(tree, program, env, cwd)
    if found is None:
        raise CommandFails(f"{program}: there is no such program in the image")
    interpreter = found
    if is_pip(name):
        text = tree.text(found) or ""
        first = text.partition("\n")[0]
        if first.startswith("#!") and is_python(first[2:].split()[0].rpartition("/")[2]):
            interpreter = first[2:].split()[0]
        elif text:
            raise NeedsEngine(f"{found} is not started by a Python that is known")
    root = _venv_root(tree, interpreter) or _venv_root(tree, found)
    if root is not None:
        config = tree.text(f"{root}/pyvenv.cfg") or ""
        scheme = Scheme.venv(root, minor, interpreter=interpreter)
        scheme = resolved_scheme(tree, scheme)
        system = re.search(r"(?mi)^include-system-site-packages\s*=\s*true", config) is not None
        sites = (scheme.purelib, *(_system_sites(facts) if system else ()))
        return Environment(scheme=scheme, sites=sites, root=root.strip("/"), is_venv=True, managed=False)
    own = {tree.resolve(posixpath.dirname(facts.command)), tree.resolve(posixpath.dirname(facts.interpreter))}
    if tree.resolve(posixpath.dirname(interpreter)) not in own or facts.is_virtual:
        raise NeedsEngine(f"{found} is not the base's own Python")
    pip = facts.pip
    scheme = Scheme(
        purelib=pip.purelib,
        platlib=pip.platlib,
        scripts=pip.scripts,
        headers=pip.headers,
        data=pip.data,
        interpreter=interpreter,
        python=minor,
    )
    return Environment(
        scheme=scheme,
        sites=_system_sites(facts),
        root=facts.prefix.strip("/"),
        is_venv=False,
        managed=facts.externally_managed,
    )


def _system_sites(facts: BaseFacts) -> tuple[str, ...]:
    found = [facts.pip.purelib, facts.pip.platlib, *(item.location for item in facts.distributions)]
    if facts.pip.purelib.endswith("dist-packages"):
        found += ["usr/lib/python3/dist-packages"]
    return tuple(dict.fromkeys(found))


def resolved_scheme(tree: Tree, scheme: Scheme) -> Scheme:
    """The scheme with the links on its paths followed."""
    return replace(
        scheme,
        purelib=tree.resolve(scheme.purelib),
        platlib=tree.resolve(scheme.platlib),
        scripts=tree.resolve(scheme.scripts),
        headers=tree.resolve(scheme.headers),
        data=tree.resolve(scheme.data),
    )


def pip_install(
    action: PipInstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, tools: Tools
) -> list[Wheel]:
    """Installs; the caller keeps the wheels open as long as the tree is used.

    :raises CommandFails: when pip would fail.
    :raises NeedsEngine: when what pip would do is not known here.
    :raises WainError: of every kind that an index or a wheel can have.
    """
    environment = _environment(action, tree, facts, env, actor)
    configured = _configuration(action, tree, environment, env)

    def switch(name: str) -> bool:
        return name in configured and configured[name].value.lower() in _TRUE

    allowed = action.break_system_packages or switch("break-system-packages")
    if environment.managed and not allowed and action.target is None and action.prefix is None:
        raise CommandFails(
            "this environment is externally managed, and pip refuses to install into it; "
            "make a virtual environment, or give pip --break-system-packages"
        )
    user = action.user or switch("user")
    scheme = _scheme(action, tree, environment, facts, env, actor, user=user, target=configured.get("target"))
    with tempfile.TemporaryDirectory(prefix="wain-requirements-") as folder:
        requirements = _requirements(action, tree, env, actor.cwd, Path(folder))
        flags = {name: setting for name, setting in configured.items() if name in _INDEX_OPTIONS}
        settings = tools.settings(flags)
        ignores_installed = action.target is not None or action.force or "target" in configured
        installed = {} if ignores_installed else _installed(tree, environment.sites)
        if not user and not environment.is_venv and scheme.purelib == environment.scheme.purelib and actor.uid:
            raise CommandFails(f"user {actor.uid} may not write to /{scheme.purelib}")
        upgrade = action.upgrade or switch("upgrade")
        target = facts.target
        if not upgrade and _all_satisfied(requirements, installed, target):
            log.info("every requirement is satisfied already")
            return []
        wheels = _wheels(requirements, target, settings, tools, Path(folder))
    if action.no_deps or switch("no-deps"):
        wanted = {line.name for line in requirements.lines}
        wheels = [wheel for wheel in wheels if wheel.name in wanted]
    wanted_wheels = [
        wheel
        for wheel in wheels
        if not _stays(wheel, wheels, requirements, installed, upgrade=upgrade, eager=action.eager, target=target)
    ]
    for wheel in wanted_wheels:
        if wheel.name in installed:
            _uninstall(tree, wheel.name, installed[wheel.name], scheme, environment)
    if wanted_wheels:
        put_wheels(tree, wanted_wheels, scheme, actor, skips=action.target is not None and not upgrade)
    return wheels


def _environment(action: PipInstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor) -> Environment:
    if not action.is_uv:
        return environment_of(tree, action.program, facts, env, actor.cwd)
    if find_program(tree, action.program, env, actor.cwd) is None:
        raise CommandFails(f"{action.program}: there is no such program in the image")
    python = action.python
    if python is None and not (action.system or env.get("UV_SYSTEM_PYTHON", "").lower() in _TRUE):
        venv = env.get("VIRTUAL_ENV") or (".venv" if tree.find(f"{actor.cwd}/.venv/pyvenv.cfg") else None)
        if venv is None and action.target is None and action.prefix is None:
            raise CommandFails("uv finds no virtual environment, and --system was not given")
        if venv is not None:
            python = f"{joined_raw(actor.cwd, venv)}/bin/python"
    if python is not None and "/" in python and tree.find(f"{joined_raw(actor.cwd, python)}/pyvenv.cfg"):
        python = f"{python.rstrip('/')}/bin/python"
    if python is not None and re.fullmatch(r"\d+(\.\d+)*", python):
        if not f"{facts.python}.".startswith(f"{python}."):
            raise NeedsEngine(f"Python {python} is not the base's")
        python = None
    return environment_of(tree, python or facts.command, facts, env, actor.cwd, is_uv=True)


def _configuration(
    action: PipInstall, tree: Tree, environment: Environment, env: Mapping[str, str]
) -> dict[str, Setting]:
    """What flags, variables and files of the image say, by option; the strongest wins."""
    found: dict[str, Setting] = {}
    if action.is_uv:
        for variable, name in (
            ("UV_INDEX_URL", "index-url"),
            ("UV_DEFAULT_INDEX", "index-url"),
            ("UV_EXTRA_INDEX_URL", "extra-index-url"),
            ("UV_INDEX", "extra-index-url"),
            ("UV_FIND_LINKS", "find-links"),
            ("UV_BREAK_SYSTEM_PACKAGES", "break-system-packages"),
        ):
            if env.get(variable):
                found[name] = Setting(value=env[variable].replace(",", " "), origin=variable)
    else:
        home = env.get("HOME", "/root")
        paths = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf", f"{home}/.pip/pip.conf"]
        paths.append(f"{env.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf")
        paths.append(f"{env.get('VIRTUAL_ENV') or '/' + environment.root}/pip.conf")
        if env.get("PIP_CONFIG_FILE") == "/dev/null":
            paths = []
        elif env.get("PIP_CONFIG_FILE"):
            paths.append(env["PIP_CONFIG_FILE"])
        for section in ("global", "install"):
            for path in paths:
                text = tree.text(path)
                if text is None:
                    continue
                parser = configparser.RawConfigParser(strict=False)
                try:
                    parser.read_string(text)
                except configparser.Error as error:
                    raise CommandFails(f"{path} does not parse: {error}") from error
                if parser.has_section(section):
                    for key, value in parser.items(section):
                        found[_option(key)] = Setting(value=" ".join(value.split()), origin=path)
        for variable, value in env.items():
            if variable.startswith("PIP_") and value and variable != "PIP_CONFIG_FILE":
                found[_option(variable[4:])] = Setting(value=value, origin=variable)
    for name, value in action.options.items():
        before = found.get(name)
        text = f"{before.value} {value}" if before is not None and name in _LISTS else value
        found[name] = Setting(value=text, origin=f"--{name}")
    for word in found["find-links"].value.split() if "find-links" in found else ():
        if "://" not in word or word.startswith("file:"):
            raise NeedsEngine("--find-links of a folder in the image has to be run")
    for name in ("cert", "client-cert", "constraint", "requirement", "root", "python"):
        if name in found:
            raise NeedsEngine(f"{name} in pip's configuration ({found[name].origin}) has to be run")
    return found


def _option(text: str) -> str:
    return text.lower().replace("_", "-").removeprefix("--")


def _scheme(
    action: PipInstall,
    tree: Tree,
    environment: Environment,
    facts: BaseFacts,
    env: Mapping[str, str],
    actor: Actor,
    *,
    user: bool,
    target: Setting | None,
) -> Scheme:
    minor = facts.python.short
    own = environment.scheme
    folder = action.target or (target.value if target is not None else None)
    if folder is not None:
        root = tree.resolve(joined_raw(actor.cwd, folder))
        return replace(
            own,
            purelib=root,
            platlib=root,
            scripts=f"{root}/bin",
            headers=f"{root}/include/python",
            data=root,
        )
    debian = facts.pip.purelib.endswith("dist-packages") and not environment.is_venv
    if action.prefix is not None:
        root = tree.resolve(joined_raw(actor.cwd, action.prefix)) + ("/local" if debian else "")
        site = f"{root}/lib/python{minor}/{'dist-packages' if debian else 'site-packages'}"
        return replace(
            own, purelib=site, platlib=site, scripts=f"{root}/bin", headers=f"{root}/include/python{minor}", data=root
        )
    if user:
        if environment.is_venv:
            raise CommandFails("pip refuses --user in a virtual environment")
        base = env.get("PYTHONUSERBASE") or f"{env.get('HOME', '/root')}/.local"
        root = tree.resolve(joined_raw(actor.cwd, base))
        site = f"{root}/lib/python{minor}/site-packages"
        return replace(
            own, purelib=site, platlib=site, scripts=f"{root}/bin", headers=f"{root}/include/python{minor}", data=root
        )
    return own


def _requirements(action: PipInstall, tree: Tree, env: Mapping[str, str], cwd: str, folder: Path) -> Requirements:
    """What is asked for, with the files that say it put under a folder of this machine."""
    from wain.requirements import Requirements, parse_requirement, read_requirements

    for name in (*action.files, *action.constraints):
        _materialise(tree, joined_raw(cwd, name), env, folder, set())
    files = [read_requirements(folder / tree.resolve(joined_raw(cwd, name)), environ=env) for name in action.files]
    limits = [
        read_requirements(folder / tree.resolve(joined_raw(cwd, name)), environ=env) for name in action.constraints
    ]
    lines = []
    for text in action.requirements:
        line = parse_requirement(text, "the command line")
        if line.url is not None and "://" not in line.url and "[" not in line.url and not line.editable:
            place = tree.resolve(joined_raw(cwd, line.url))
            _write_out(tree, place, folder)
            line = parse_requirement(str(folder / place), "the command line")
        _refuse_remote(line)
        lines.append(line)
    for file in files:
        for line in file.lines:
            _refuse_local(line)
    path = files[0].path if files else folder / "requirements.txt"
    merged = Requirements(
        path=path,
        lines=(*lines, *(line for file in files for line in file.lines)),
        constraints=(
            *(line for file in files for line in file.constraints),
            *(line for file in limits for line in (*file.lines, *file.constraints)),
        ),
        options={name: setting for file in reversed(files) for name, setting in file.options.items()},
        require_hashes=action.require_hashes or any(file.require_hashes for file in files),
        files=tuple(dict.fromkeys(path for file in (*files, *limits) for path in file.files)),
    )
    if merged.require_hashes and not merged.is_locked:
        raise CommandFails("hashes are required, and not every requirement has a version and hashes")
    return merged


def _refuse_local(line: RequirementLine) -> None:
    if line.editable or (line.url is not None and "://" not in line.url):
        raise NeedsEngine(f"{line.text[:60]} is built from files of the image")
    if line.url is not None and line.url.startswith("file:"):
        raise NeedsEngine("a file of the image is installed")


def _refuse_remote(line: RequirementLine) -> None:
    if line.editable or (line.url is not None and ("[" in line.url or line.url.startswith("file:"))):
        raise NeedsEngine(f"{line.text[:60]} is built from files of the image")


_MAX_PROJECT_BYTES = 512 << 20


def _write_out(tree: Tree, path: str, folder: Path) -> None:
    """Puts a project or wheel of the image under a folder of this machine, where it is built or read."""
    top = tree.get(path)
    if top is None:
        raise CommandFails(f"/{path} is not there")
    left = _MAX_PROJECT_BYTES
    for name, node in ((path, top), *tree.walk(path)):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if node.kind == "directory":
            place.mkdir(exist_ok=True)
        elif node.kind == "symlink":
            if node.target.startswith("/") or _leaves(posixpath.dirname(name.removeprefix(path)), node.target):
                raise NeedsEngine(f"/{name} leads out of the project that is built")
            place.symlink_to(node.target)
        elif node.kind == "file" and node.content is not None:
            left -= node.size_bytes
            if left < 0:
                raise NeedsEngine(f"/{path} is too large to be built here")
            with node.content.open() as stream, place.open("wb") as out:
                while chunk := stream.read(1 << 20):
                    out.write(chunk)
            place.chmod(node.mode & 0o777 | 0o600)


_REFERENCE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)(?:[ \t]*=?[ \t]*)(\S+)")
_FOUND = re.compile(r"\s*(?:-f|--find-links)(?:[ \t]*=?[ \t]*)(\S+)")


def _materialise(tree: Tree, path: str, env: Mapping[str, str], folder: Path, seen: set[str]) -> None:
    resolved = tree.resolve(path)
    if resolved in seen or len(seen) > 200:
        return
    seen.add(resolved)
    if "://" in path.removeprefix("/"):
        raise NeedsEngine("a requirements file at a URL is read by pip")
    text = tree.text(resolved)
    if text is None:
        raise CommandFails(f"there is no requirements file {path}")
    place = folder / resolved
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode("utf-8", "surrogateescape"))
    for line in text.splitlines():
        expanded = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda match: env.get(match[1]) or match[0], line)
        found = _FOUND.match(expanded)
        if found is not None and "://" not in found[1]:
            raise NeedsEngine("find-links of a folder in the image has to be run")
        if (match := _REFERENCE.match(expanded)) is None:
            continue
        named = match[1].strip("'\"")
        if named.startswith(("/", "~")) or "://" in named or _leaves(posixpath.dirname(resolved), named):
            raise NeedsEngine(f"{posixpath.basename(path)} reads {named}, which pip has to look for")
        _materialise(tree, f"/{posixpath.dirname(resolved)}/{named}", env, folder, seen)


def _leaves(folder: str, path: str) -> bool:
    """Whether a relative path climbs above the root."""
    depth = len(parts_of(folder))
    for part in path.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _There:
    version: str
    site: str
    info: str
    """Its metadata's path."""


_INFO = re.compile(r"(.+?)-([^-]+)(?:-py3(?:\.\d+)?)?\.(?:dist|egg)-info\Z")


def _installed(tree: Tree, sites: Iterable[str]) -> dict[str, _There]:
    found: dict[str, _There] = {}
    for site in sites:
        node = tree.find(site)
        for name in sorted((node.children if node is not None else None) or {}):
            if match := _INFO.match(name):
                key = normalize_name(match[1])
                found.setdefault(key, _There(version=match[2], site=site, info=f"{site}/{name}"))
    return found


def _all_satisfied(requirements: Requirements, installed: Mapping[str, _There], target: Target) -> bool:
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


def _stays(
    wheel: Wheel,
    wheels: Sequence[Wheel],
    requirements: Requirements,
    installed: Mapping[str, _There],
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


def _uninstall(tree: Tree, name: str, there: _There, scheme: Scheme, environment: Environment) -> None:
    if there.site not in (scheme.purelib, scheme.platlib):
        inside = there.site.startswith(f"{environment.root}/")
        if environment.is_venv or not inside or scheme.purelib != environment.scheme.purelib:
            return
    record = tree.text(f"{there.info}/RECORD")
    if record is None:
        raise CommandFails(f"pip cannot uninstall {name} {there.version}: its RECORD is not there")
    import csv

    folders: set[str] = set()
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


def _names(tree: Tree, folder: str) -> list[str]:
    node = tree.get(folder)
    return list(node.children) if node is not None and node.children else []


def _wheels(
    requirements: Requirements, target: Target, settings: IndexSettings, tools: Tools, folder: Path
) -> list[Wheel]:
    from wain.locking import lock_for_requirements
    from wain.wheelhouse import collect_wheels

    lock = lock_for_requirements(
        requirements, targets=[target], settings=settings, store=tools.store, transport=tools.transport
    )
    urls = tuple(line.url for line in (*requirements.lines, *requirements.constraints) if line.url)
    return collect_wheels(
        lock,
        target,
        folder=requirements.path.parent,
        settings=settings,
        store=tools.store,
        transport=tools.transport,
        credential_urls=urls,
        build_env=tools.build_env,
        progress=tools.progress,  # type: ignore[arg-type]
    )


def put_wheels(tree: Tree, wheels: Sequence[Wheel], scheme: Scheme, actor: Actor, *, skips: bool = False) -> None:
    """Puts the files of wheels where the scheme says, in shares that may become layers."""
    clusters = [cluster for cluster in colliding(wheels, scheme) if len(cluster) > 1]
    together = {wheel.name for cluster in clusters for wheel in cluster}
    members: dict[Digest, tuple[Wheel, ...]] = {}
    items = []
    for cluster in (*clusters, *((wheel,) for wheel in wheels if wheel.name not in together)):
        members[cluster[0].digest] = tuple(cluster)
        items.append(
            Item(
                name=cluster[0].name,
                size_bytes=sum(wheel.size_bytes for wheel in cluster),
                digests=(cluster[0].digest,),
            )
        )
    for share_items in group(items, budget=SLOTS + OVERFLOW_SLOTS + 8):
        chosen = tuple(itertools.chain.from_iterable(members[item.digests[0]] for item in share_items))
        plan = plan_install(chosen, scheme)
        share = Share(wheels=plan.wheels, scheme=scheme, count=len(plan.files))
        put_plan(tree, plan.files, share, actor, skips=skips)


def put_plan(tree: Tree, files: Sequence[PlannedFile], share: Share, actor: Actor, *, skips: bool = False) -> None:
    """Puts planned files into a tree as their user's."""
    made: set[str] = set()
    for file in files:
        folder = file.path.rpartition("/")[0]
        if folder not in made:
            tree.make_folders(folder, uid=actor.uid, gid=actor.gid)
            made.add(folder)
        if skips and tree.get(file.path) is not None:
            continue
        tree.put(
            file.path,
            Node(
                kind="file",
                mode=file.mode,
                uid=actor.uid,
                gid=actor.gid,
                size_bytes=file.size_bytes,
                content=WheelFile(share, file),
            ),
        )
