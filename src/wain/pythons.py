"""The Pythons of a stage: which environment a `pip`, `python` or `uv` of a RUN belongs to, and where it installs.

Sources: PEP 405; pip's documentation of installation schemes; uv's documentation of environments.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from wain.actions import NeedsEngine
from wain.bases import BaseFacts
from wain.filework import CommandFails, joined_raw
from wain.install import Scheme
from wain.invocation import is_pip, is_python
from wain.steps import DEFAULT_PATH
from wain.tree import Tree, parts_of

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


class Environment(Struct, frozen=True, kw_only=True):
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
        path = env.get("PATH", DEFAULT_PATH)
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


def uv_interpreter(
    tree: Tree, facts: BaseFacts, env: Mapping[str, str], cwd: str, *, request: str | None, has_range: bool
) -> str:
    """The interpreter that uv makes an environment of, by the name under which it finds it on PATH.

    :param request: what `--python`, UV_PYTHON or .python-version say.
    :param has_range: whether a project's requires-python narrows the search.
    :raises NeedsEngine: when it is not the base's own Python, so that uv would look elsewhere or download one.
    """
    if env.get("UV_PYTHON_PREFERENCE") == "only-managed" or env.get("UV_MANAGED_PYTHON", "").lower() in _TRUE:
        raise NeedsEngine("uv downloads a Python of its own here")
    own = tree.resolve(facts.interpreter)
    if request is not None and request.startswith("/"):
        if tree.resolve(request) != own:
            raise NeedsEngine(f"{request} is not the base's own Python")
        return request
    names = ["python3", "python"] if has_range else ["python", "python3"]
    if request is not None:
        match = re.fullmatch(r"(?:cpython[-@]?|python)?(\d+(?:\.\d+){0,2})", request)
        if match is None or not f"{facts.python}.".startswith(f"{match[1]}."):
            raise NeedsEngine(f"Python {request} is asked of uv, and the base has {facts.python}")
        parts = match[1].split(".")
        names = [f"python{'.'.join(parts[:count])}" for count in range(len(parts), 0, -1)] + ["python"]
    path = env.get("PATH", DEFAULT_PATH)
    for folder in path.split(":"):
        for name in names:
            candidate = joined_raw(cwd, f"{folder}/{name}")
            node = tree.find(candidate)
            if not folder or node is None or node.kind != "file" or not node.mode & 0o111:
                continue
            if _venv_root(tree, candidate) is not None:
                continue
            if tree.resolve(candidate) != own:
                raise NeedsEngine(f"{candidate} is not the base's own Python")
            return candidate
    raise NeedsEngine("uv finds no Python on PATH, and would download one")
