"""What `pip install` and `uv pip install` in a Dockerfile do, done on a stage's tree.

pip's meaning holds: which environment a command belongs to, where that environment's pip puts things for its user, what
is there already and stays, what pip refuses. The wheels come from the store.

Sources: pip's user guide and its documentation of installation; PEP 508, PEP 668.
"""

from __future__ import annotations

import configparser
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import field
from msgspec.structs import replace

from wain.actions import NeedsEngine, PipInstall, PipUninstall
from wain.asked import Asked, asked_requirements, uv_configuration, write_out_again
from wain.bases import BaseFacts
from wain.bytesteps import compile_tree, sources_below
from wain.editables import NotEditable
from wain.filework import Actor, CommandFails, joined_raw, may_write, put_text
from wain.install import Scheme
from wain.installed import all_satisfied, installed_in, stays, uninstall
from wain.pipconf import Setting
from wain.platforms import Target
from wain.pythons import Environment, environment_of, find_program
from wain.records import Record
from wain.settings import BuildSettings, IndexSettings, normalize_name
from wain.shares import put_wheels, wheel_of
from wain.store import Store
from wain.tree import Tree
from wain.uv_venvs import is_seed, lock_venv
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.lock import Selected
    from wain.sdists import BuiltWheel
    from wain.transport import Transport

log = logging.getLogger(__name__)

_INDEX_OPTIONS = frozenset(
    "index-url extra-index-url find-links no-index pre prefer-binary only-binary no-binary trusted-host cert "
    "client-cert proxy timeout retries keyring-provider".split()
)
_LISTS = frozenset({"extra-index-url", "find-links", "trusted-host", "only-binary", "no-binary"})
_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})


class Tools(Record, frozen=True, kw_only=True):
    """What installations need of the world around."""

    unshown: ClassVar = ("secrets",)

    store: Store
    transport: Transport
    settings: Callable[[Mapping[str, Setting]], IndexSettings]
    """The index settings of this machine, with what the Dockerfile says over them."""
    progress: Callable[..., object] | None = None
    builds: BuildSettings = field(default_factory=BuildSettings)
    compile: bool = False
    """Whether every installation leaves bytecode."""
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    """By id. They are seen by installations alone, and never stay."""


def pip_install(
    action: PipInstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, tools: Tools
) -> list[Wheel]:
    """Installs; the caller keeps the wheels open as long as the tree is used.

    :raises CommandFails: when pip would fail.
    :raises NeedsEngine: when what pip would do is not known here.
    :raises WainError: of every kind that an index or a wheel can have.
    """
    environment = _environment(action, tree, facts, env, actor)
    configured = _configuration(action, tree, environment.root, env)

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
        asked = asked_requirements(action, tree, env, actor.cwd, Path(folder))
        requirements = asked.requirements
        flags = {name: setting for name, setting in configured.items() if name in _INDEX_OPTIONS}
        settings = tools.settings(flags)
        ignores_installed = action.target is not None or action.force or "target" in configured
        installed = {} if ignores_installed else installed_in(tree, environment.sites)
        if not user and not environment.is_venv and scheme.purelib == environment.scheme.purelib and actor.uid:
            raise CommandFails(f"user {actor.uid} may not write to /{scheme.purelib}")
        upgrade = action.upgrade or switch("upgrade")
        target = facts.target
        if not upgrade and not action.exact and all_satisfied(requirements, installed, target):
            log.info("every requirement is satisfied already")
            return []
        no_deps = action.no_deps or switch("no-deps")
        wheels, local, left = _wheels(asked, tree, target, settings, tools, Path(folder), no_deps=no_deps)
    wanted_wheels = [
        wheel
        for wheel in wheels
        if wheel.name in local
        or not stays(wheel, wheels, requirements, installed, upgrade=upgrade, eager=action.eager, target=target)
    ]
    for wheel in wanted_wheels:
        if wheel.name in installed:
            uninstall(tree, wheel.name, installed[wheel.name], scheme, environment)
    skips = action.target is not None and not upgrade
    put_wheels(tree, [wheel for wheel in wanted_wheels if wheel.name not in local], scheme, actor, skips=skips)
    for wheel in wanted_wheels:
        if wheel.name in local:
            # By itself, so that the layers of the dependencies do not change with the project.
            put_wheels(tree, [wheel], scheme, actor, skips=skips)
    if action.exact:
        wanted = {wheel.name for wheel in wheels}
        for name, there in installed.items():
            if name not in wanted and not is_seed(tree, name, environment, facts):
                uninstall(tree, name, there, scheme, environment)
    for path, text in left.items():
        put_text(tree, path, text, actor)
    if compiles(action.compile, env, configured, tools):
        roots = {scheme.purelib, scheme.platlib}
        names = {wheel.digest for wheel in wanted_wheels}
        paths = [path for root in roots for path in sources_below(tree, root)]
        if not action.is_uv:
            paths = [path for path in paths if wheel_of(tree, path) in names]
        compile_tree(tree, paths, facts, actor, tools.store)
    if action.is_uv and (environment.is_venv or scheme.data != environment.scheme.data):
        lock_venv(tree, scheme.data, actor)
    return wheels


def pip_uninstall(action: PipUninstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor) -> None:
    """Removes distributions; pip leaves alone what is not there, or stands elsewhere.

    :raises CommandFails: when pip would fail.
    :raises NeedsEngine: when the Python is not the one that is known.
    """
    environment = environment_of(tree, action.program, facts, env, actor.cwd)
    allowed = action.break_system_packages or env.get("PIP_BREAK_SYSTEM_PACKAGES", "").lower() in _TRUE
    if environment.managed and not allowed:
        raise CommandFails("this environment is externally managed, and pip refuses to remove from it")
    installed = installed_in(tree, environment.sites)
    for name in action.names:
        there = installed.get(normalize_name(name))
        if there is None:
            log.warning("%s is not installed, and is not removed", name)
            continue
        if actor.uid and there.site == environment.scheme.purelib:
            may_write(tree, there.site, actor)
        uninstall(tree, name, there, environment.scheme, environment)


def compiles(asked: bool | None, env: Mapping[str, str], configured: Mapping[str, Setting], tools: Tools) -> bool:
    """Whether an installation is to leave bytecode: it is asked for by name, pip's default does not count."""
    if asked is not None:
        return asked
    if tools.compile:
        return True
    if "compile" in configured:
        return configured["compile"].value.lower() in _TRUE
    return False


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


def index_settings_of(
    action: PipInstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], tools: Tools
) -> IndexSettings:
    """Where an installation of the base's Python looks, for one that is not done here.

    :raises CommandFails, NeedsEngine: when its configuration is not understood.
    """
    configured = _configuration(action, tree, facts.prefix.strip("/"), env)
    return tools.settings({name: setting for name, setting in configured.items() if name in _INDEX_OPTIONS})


def _configuration(action: PipInstall, tree: Tree, root: str, env: Mapping[str, str]) -> dict[str, Setting]:
    """What flags, variables and files of the image say, by option; the strongest wins."""
    found: dict[str, Setting] = {}
    if action.is_uv:
        found |= uv_configuration(env)
    else:
        home = env.get("HOME", "/root")
        paths = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf", f"{home}/.pip/pip.conf"]
        paths.append(f"{env.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf")
        paths.append(f"{env.get('VIRTUAL_ENV') or '/' + root}/pip.conf")
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


def _wheels(
    asked: Asked, tree: Tree, target: Target, settings: IndexSettings, tools: Tools, folder: Path, *, no_deps: bool
) -> tuple[list[Wheel], frozenset[str], dict[str, str]]:
    """The wheels of what is asked for, the names of those that were built from files of the image, and the texts that
    these leave there.
    """
    from wain.locking import lock_for_requirements
    from wain.wheelhouse import collect_wheels

    requirements = asked.requirements
    lock = lock_for_requirements(
        requirements, targets=[target], settings=settings, store=tools.store, transport=tools.transport
    )
    write_out_again(asked, tree, folder)
    urls = tuple(line.url for line in (*requirements.lines, *requirements.constraints) if line.url)
    names = {line.name for line in requirements.lines}
    local: set[str] = set()
    left: dict[str, str] = {}

    def built(item: Selected, wheel: BuiltWheel) -> None:
        if item.package.directory is not None:
            local.add(item.name)
            place = asked.editables.get(item.package.directory.path)
            if place is not None:
                left.update({f"{place.path}/{name}": text for name, text in wheel.left.items()})

    try:
        wheels = collect_wheels(
            lock,
            target,
            folder=requirements.path.parent,
            settings=settings,
            store=tools.store,
            transport=tools.transport,
            credential_urls=urls,
            builds=tools.builds,
            progress=tools.progress,  # type: ignore[arg-type]
            leave_out=lambda item: no_deps and item.kind != "directory" and item.name not in names,
            editables=asked.editables,
            on_built=built,
        )
    except NotEditable as error:
        raise NeedsEngine(str(error)) from error
    return wheels, frozenset(local), left
