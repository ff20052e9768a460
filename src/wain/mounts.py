"""RUN's `--mount` flags as data.

Source: Dockerfile reference (RUN --mount).
"""

from __future__ import annotations

import csv

from msgspec import Struct

from wain.dockerfile import Flag, Instruction, dockerfile_error

KINDS = frozenset({"bind", "cache", "tmpfs", "secret", "ssh"})
_TRUE = frozenset({"", "true", "1", "t", "TRUE", "True", "T"})
_SWITCHES = {"readonly": True, "ro": True, "readwrite": False, "rw": False}
_KEYS = {"target": "target", "dst": "target", "destination": "target", "source": "source", "src": "source"}
_PLAIN = frozenset({"type", "from", "id", "uid", "gid", "mode", "sharing", "env", "size", "required"})


class Mount(Struct, frozen=True, kw_only=True):
    """One `--mount`; values are unsubstituted, None where not given.

    `sharing` is shared, private or locked. `readonly` is true for binds unless `rw` is given. `is_known` is false
    where a key or the kind is none that the reference has.
    """

    kind: str
    target: str | None
    source: str | None
    from_: str | None
    id: str | None
    uid: str | None
    gid: str | None
    mode: str | None
    sharing: str | None
    env: str | None
    readonly: bool
    required: bool
    is_known: bool
    flag: Flag


def mounts(instruction: Instruction, *, name: str = "Dockerfile") -> tuple[Mount, ...]:
    """The mounts of a RUN in order.

    :raises DockerfileError: where a flag's value is not a list of key=value.
    """
    return tuple(
        parse_mount(flag, line=instruction.line, name=name) for flag in instruction.flags if flag.name == "mount"
    )


def parse_mount(flag: Flag, *, line: int, name: str = "Dockerfile") -> Mount:
    """One `--mount` flag's value, read as comma-separated values with CSV's quoting.

    :raises DockerfileError: where it is not a list of key=value.
    """
    values: dict[str, str] = {}
    readonly: bool | None = None
    is_known = True
    try:
        fields = next(csv.reader([flag.value or ""], strict=True), [])
    except csv.Error as error:
        raise dockerfile_error(name, line, f"--mount={flag.value}: {error}") from error
    if not fields:
        raise dockerfile_error(name, line, "--mount has no value", "Write --mount=type=cache,target=/path.")
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key in _SWITCHES:
            is_true = value in _TRUE
            readonly = _SWITCHES[key] is is_true
        elif key == "required" and not equals:
            values["required"] = "true"
        elif not equals:
            raise dockerfile_error(name, line, f"--mount: {field!r} is not of the form key=value")
        elif key in _KEYS:
            values[_KEYS[key]] = value
        elif key in _PLAIN:
            values[key] = value
        else:
            is_known = False
    kind = values.get("type", "bind")
    return Mount(
        kind=kind,
        target=values.get("target"),
        source=values.get("source"),
        from_=values.get("from"),
        id=values.get("id"),
        uid=values.get("uid"),
        gid=values.get("gid"),
        mode=values.get("mode"),
        sharing=values.get("sharing"),
        env=values.get("env"),
        readonly=kind == "bind" if readonly is None else readonly,
        required=values.get("required", "false") in _TRUE,
        is_known=is_known and kind in KINDS,
        flag=flag,
    )
