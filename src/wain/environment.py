"""The environment that an image's program runs in: /opt/venv's skeleton, its user with a home, its settings.

Sources: PEP 405, pyvenv.cfg; passwd(5) and group(5).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from wain.bases import BaseFacts
from wain.digest import Digest
from wain.errors import UsageError
from wain.gzips import COMPRESSOR, LEVEL
from wain.layers import Entry, Layer, files_layer, remember_layer, remembered_layer
from wain.oci import JSON, Runtime
from wain.store import Store, recipe_key

VENV = "opt/venv"
DEFAULT_USER = "65532"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEW_NAME = "nonroot"


class User(Struct, frozen=True, kw_only=True):
    """Who the program runs as, with its entries in the image's passwd and group."""

    name: str
    uid: int
    gid: int
    home: str
    """Absolute."""
    passwd: str
    """The whole of /etc/passwd with the user in it."""
    group: str
    is_new: bool
    """Whether the base had no such user, so that passwd, group and a home must be made."""


def find_user(facts: BaseFacts, wanted: str) -> User:
    """The user that `UID[:GID]` or a name of the base's passwd says.

    :raises UsageError: when a name is not in the base's passwd or group, or a number is out of range.
    """
    user_text, _, group_text = wanted.partition(":")
    entries = [line.split(":") for line in facts.passwd.splitlines() if line.count(":") >= 6]
    if user_text.isdigit():
        known = next((entry for entry in entries if entry[2] == user_text), None)
    else:
        known = next((entry for entry in entries if entry[0] == user_text), None)
        if known is None:
            names = ", ".join(entry[0] for entry in entries[:8]) or "none"
            raise UsageError(
                f"the base has no user {user_text!r}",
                hint=f"Give a number, such as 65532, or one of its users: {names}.",
            )
    if known:
        gid = _gid(facts, group_text) if group_text else int(known[3])
        return User(
            name=known[0],
            uid=int(known[2]),
            gid=gid,
            home=known[5] or "/",
            passwd=facts.passwd,
            group=facts.group,
            is_new=False,
        )
    uid = int(user_text)
    gid = _gid(facts, group_text) if group_text else uid
    if max(uid, gid) >= 1 << 31:
        raise UsageError(f"user {wanted!r} is out of range", hint="Give a number below 2147483648.")
    taken = {entry[0] for entry in entries} | {line.partition(":")[0] for line in facts.group.splitlines()}
    name = _NEW_NAME if _NEW_NAME not in taken else f"user{uid}"
    home = f"/home/{name}"
    passwd = f"{_with_newline(facts.passwd)}{name}:x:{uid}:{gid}:{name}:{home}:/usr/sbin/nologin\n"
    group = facts.group
    if facts.group_name(gid) is None:
        group = f"{_with_newline(facts.group)}{name}:x:{gid}:\n"
    return User(name=name, uid=uid, gid=gid, home=home, passwd=passwd, group=group, is_new=True)


def _gid(facts: BaseFacts, text: str) -> int:
    if text.isdigit():
        return int(text)
    for line in facts.group.splitlines():
        name, _, rest = line.partition(":")
        if name == text and (match := re.match(r"[^:]*:(\d+)", rest)):
            return int(match[1])
    raise UsageError(f"the base has no group {text!r}", hint="Give a number, such as 65532.")


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def environment_entries(facts: BaseFacts, user: User) -> list[Entry]:
    """The layer between dependencies and project: the environment's skeleton, and the user where it is new.

    Folders that the base has keep the mode and owner they have there.
    """
    python = facts.python
    version_name = f"python{python.short}"
    lines = (
        f"home = {PurePosixPath(facts.interpreter).parent}",
        "include-system-site-packages = false",
        f"version = {python}",
        f"executable = {facts.interpreter}",
        f"command = {facts.interpreter} -m venv /{VENV}",
    )
    entries = [
        *(_folder(facts, path) for path in ("opt", VENV, f"{VENV}/bin")),
        _file(f"{VENV}/pyvenv.cfg", "".join(line + "\n" for line in lines)),
        Entry(path=f"{VENV}/bin/python", kind="symlink", mode=0o777, target=facts.interpreter),
        Entry(path=f"{VENV}/bin/python3", kind="symlink", mode=0o777, target="python"),
        Entry(path=f"{VENV}/bin/{version_name}", kind="symlink", mode=0o777, target="python"),
        *(_folder(facts, path) for path in (f"{VENV}/lib", f"{VENV}/lib/{version_name}")),
        _folder(facts, f"{VENV}/lib/{version_name}/site-packages"),
    ]
    if user.is_new:
        etc = facts.resolve("etc")
        home = user.home.strip("/")
        parent = facts.resolve(str(PurePosixPath(home).parent))
        entries += [
            *(_folder(facts, path) for path in dict.fromkeys((etc, parent))),
            _file(f"{etc}/passwd", user.passwd),
            _file(f"{etc}/group", user.group),
            # Group 0 may write: platforms that run images with a random uid give it gid 0.
            Entry(path=f"{parent}/{PurePosixPath(home).name}", kind="directory", mode=0o770, uid=user.uid, gid=0),
        ]
    return entries


def environment_layer(facts: BaseFacts, user: User, *, store: Store) -> tuple[Layer, bool]:
    """The layer of `environment_entries`, and whether it was made before."""
    entries = environment_entries(facts, user)
    told: list[JSON] = [
        [
            entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.target,
            Digest.of(entry.open_data().read()) if entry.open_data is not None else None,
        ]
        for entry in entries
    ]  # fmt: skip
    key = recipe_key({"recipe": "environment/1", "compressor": f"{COMPRESSOR} level {LEVEL}", "entries": told})
    created_by = f"wain: /{VENV} for Python {facts.python}, user {user.name}"
    if (known := remembered_layer(key, store=store, created_by=created_by)) is not None:
        return replace(known, annotations={}), True
    layer = files_layer(entries, store=store, created_by=created_by)
    remember_layer(key, layer, store=store)
    return layer, False


def _folder(facts: BaseFacts, path: str) -> Entry:
    mode, uid, gid = facts.directory(path)
    return Entry(path=path, kind="directory", mode=mode, uid=uid, gid=gid)


def _file(path: str, text: str) -> Entry:
    data = text.encode()
    return Entry(path=path, kind="file", size_bytes=len(data), open_data=lambda: io.BytesIO(data))


def runtime(
    base: Runtime,
    *,
    user: User,
    entrypoint: Sequence[str],
    command: Sequence[str] | None,
    env: Mapping[str, str],
    ports: Sequence[str],
    volumes: Sequence[str],
    labels: Mapping[str, str],
    workdir: str,
    stop_signal: str | None,
    has_bytecode: bool,
) -> Runtime:
    """How a container of the image starts: the base's settings with the project's over them."""
    base_env = base.environment()
    changes = {
        "PATH": f"/{VENV}/bin:{base_env.get('PATH') or _DEFAULT_PATH}",
        "VIRTUAL_ENV": f"/{VENV}",
        "LANG": base_env.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",
    }
    if not has_bytecode:
        changes["PYTHONDONTWRITEBYTECODE"] = "1"
    return replace(
        base.with_env({**changes, **env}),
        user=f"{user.uid}:{user.gid}",
        working_dir=workdir,
        entrypoint=tuple(entrypoint),
        cmd=tuple(command) if command else None,
        exposed_ports=tuple(dict.fromkeys((*base.exposed_ports, *(_port(port) for port in ports)))),
        volumes=tuple(dict.fromkeys((*base.volumes, *volumes))),
        labels={**base.labels, **labels},
        stop_signal=stop_signal or base.stop_signal,
    )


def _port(text: str) -> str:
    """`8000` -> `8000/tcp`.

    :raises UsageError: when it is no port.
    """
    number, _, protocol = text.partition("/")
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("", "tcp", "udp", "sctp"):
        raise UsageError(f"{text!r} is no port", hint="Write 8000 or 8000/udp.")
    return f"{number}/{protocol or 'tcp'}"
