"""The instructions that set an image's configuration, done on a stage: ENV, LABEL, WORKDIR, USER, CMD, and so on.

Sources: Dockerfile reference; values and history are those that BuildKit's front end writes.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable

from wain.dockerfile import Instruction
from wain.filework import CommandFails
from wain.oci import JSON
from wain.stage import StageBuild
from wain.substitution import expand, expand_words
from wain.tree import joined

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def _shown(words: tuple[str, ...]) -> str:
    """A list as Go's %q prints it."""
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


def _env(stage: StageBuild, instruction: Instruction) -> None:
    before = stage.scope.variables()
    pairs = {}
    told = []
    for key, value in instruction.pairs():
        name = expand(key.value, before, escape=stage.scope.escape).value or ""
        text = expand(value.value, before, escape=stage.scope.escape).value or ""
        pairs[name] = text
        told.append(f"{name}={text}")
    stage.runtime = stage.runtime.with_env(pairs)
    stage.record(f"ENV {' '.join(told)}")


def _label(stage: StageBuild, instruction: Instruction) -> None:
    labels = dict(stage.runtime.labels)
    told = []
    for key, value in instruction.pairs():
        name, text = stage.text(key.value, instruction), stage.text(value.value, instruction)
        labels[name] = text
        told.append(f"{name}={text}")
    stage.with_runtime(labels=labels)
    stage.record(f"LABEL {' '.join(told)}")


def _arg(stage: StageBuild, instruction: Instruction) -> None:
    told = []
    for word in instruction.words:
        name, equals, default = word.value.partition("=")
        name = stage.text(name, instruction)
        told.append(f"{name}={stage.text(default, instruction)}" if equals else name)
        stage.args = [*(one for one in stage.args if one != name), name]
    stage.record(f"ARG {' '.join(told)}")


def _workdir(stage: StageBuild, instruction: Instruction) -> None:
    value = stage.text(instruction.arguments, instruction)
    path = posixpath.normpath("/" + joined(stage.workdir(), value)) if value else "/"
    stage.with_runtime(working_dir=path)
    if path == "/":
        stage.record(f"WORKDIR {path}")
        return
    before = stage.tree.mark()
    uid, gid = 0, 0
    if stage.runtime.user:
        try:
            uid, gid, _ = stage.user()
        except CommandFails as error:
            raise stage.fail(instruction, str(error)) from error
    stage.tree.make_folders(path, uid=uid, gid=gid)
    stage.record(f"WORKDIR {path}", before)


def _user(stage: StageBuild, instruction: Instruction) -> None:
    value = stage.text(instruction.arguments, instruction)
    stage.with_runtime(user=value)
    stage.record(f"USER {value}")


def _expose(stage: StageBuild, instruction: Instruction) -> None:
    ports: list[str] = []
    for word in instruction.values:
        for text in expand_words(word, stage.scope.variables(), escape=stage.scope.escape) or ():
            number, _, protocol = text.partition("/")
            first, _, last = number.rpartition(":")[2].partition("-")
            if not first.isdigit() or not (last or first).isdigit() or int(last or first) > 65535:
                raise stage.fail(instruction, f"{text!r} is no port", "Write EXPOSE 8000 or EXPOSE 8000/udp.")
            if int(last or first) - int(first) > 65535:
                raise stage.fail(instruction, f"{text!r} is no range of ports")
            ports += [f"{port}/{(protocol or 'tcp').lower()}" for port in range(int(first), int(last or first) + 1)]
    ports = list(dict.fromkeys(ports))
    stage.with_runtime(exposed_ports=tuple(dict.fromkeys((*stage.runtime.exposed_ports, *ports))))
    stage.record(f"EXPOSE map[{' '.join(f'{port}:{{}}' for port in sorted(ports))}]")


def _volume(stage: StageBuild, instruction: Instruction) -> None:
    volumes = [stage.text(word, instruction) for word in instruction.values]
    stage.with_runtime(volumes=tuple(dict.fromkeys((*stage.runtime.volumes, *volumes))))
    stage.record(f"VOLUME [{' '.join(volumes)}]")


def _stopsignal(stage: StageBuild, instruction: Instruction) -> None:
    value = stage.text(instruction.arguments, instruction)
    stage.with_runtime(stop_signal=value)
    stage.record(f"STOPSIGNAL {value}")


def _shell(stage: StageBuild, instruction: Instruction) -> None:
    stage.shell = instruction.values
    stage.with_runtime(shell=instruction.values)
    stage.record(f"SHELL [{' '.join(instruction.values)}]")


def _started(stage: StageBuild, instruction: Instruction) -> tuple[str, ...]:
    return instruction.values if instruction.is_json else (*stage.shell, instruction.arguments)


def _cmd(stage: StageBuild, instruction: Instruction) -> None:
    words = _started(stage, instruction)
    stage.with_runtime(cmd=words, others={**stage.runtime.others, "ArgsEscaped": True})
    stage.cmd_is_set = True
    stage.record(f"CMD {_shown(words)}")


def _entrypoint(stage: StageBuild, instruction: Instruction) -> None:
    words = _started(stage, instruction)
    stage.with_runtime(entrypoint=words)
    if not stage.cmd_is_set:
        stage.with_runtime(cmd=None)
    stage.record(f"ENTRYPOINT {_shown(words)}")


def _nanoseconds(text: str, stage: StageBuild, instruction: Instruction) -> int:
    if not text:
        return 0
    position, total = 0, 0.0
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None:
            raise stage.fail(instruction, f"{text!r} is no duration", "Write 30s, 1m30s or 500ms.")
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    return round(total)


def _go_duration(value: int) -> str:
    """A duration as Go prints it, whole milliseconds."""
    if value == 0:
        return "0s"
    if value < 10**9:
        return f"{value / 10**6:g}ms"
    seconds = value / 10**9
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{hours}h" if hours else ""
    return f"{text}{minutes}m{rest:g}s" if hours or minutes else f"{rest:g}s"


def _healthcheck(stage: StageBuild, instruction: Instruction) -> None:
    kind = instruction.values[0].upper() if instruction.values else ""
    if kind == "NONE":
        stage.with_runtime(healthcheck={"Test": ["NONE"]})
        stage.record('HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" \'\\x00\'}')
        return
    if kind != "CMD" or len(instruction.words) < 2:
        raise stage.fail(instruction, f"HEALTHCHECK {kind} is not known", "Write HEALTHCHECK CMD or NONE.")
    rest = instruction.values[1:]
    test = ("CMD", *rest) if instruction.is_json else ("CMD-SHELL", rest[0])
    times = {
        key: _nanoseconds(instruction.flag(flag) or "", stage, instruction)
        for key, flag in (
            ("Interval", "interval"),
            ("Timeout", "timeout"),
            ("StartPeriod", "start-period"),
            ("StartInterval", "start-interval"),
        )
    }
    retries = instruction.flag("retries") or "0"
    if not retries.isdigit():
        raise stage.fail(instruction, f"{retries!r} is no number of retries")
    check: dict[str, JSON] = {"Test": [*test], **{key: value for key, value in times.items() if value}}
    if int(retries):
        check["Retries"] = int(retries)
    stage.with_runtime(healthcheck=check)
    shown = " ".join(f'"{_go_duration(value)}"' for value in times.values())
    number = int(retries)
    rune = (
        f"'{chr(number)}'"
        if 32 <= number < 127
        else {7: "'\\a'", 8: "'\\b'", 9: "'\\t'", 10: "'\\n'"}.get(number, f"'\\x{number:02x}'")
    )
    stage.record(f"HEALTHCHECK &{{{_shown(test)} {shown} {rune}}}")


def _maintainer(stage: StageBuild, instruction: Instruction) -> None:
    stage.author = instruction.arguments
    stage.record(f"MAINTAINER {instruction.arguments}")


def _onbuild(stage: StageBuild, instruction: Instruction) -> None:
    stage.with_runtime(on_build=(*(stage.runtime.on_build or ()), instruction.arguments))


SETTINGS: dict[str, Callable[[StageBuild, Instruction], None]] = {
    "ENV": _env,
    "LABEL": _label,
    "ARG": _arg,
    "WORKDIR": _workdir,
    "USER": _user,
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "STOPSIGNAL": _stopsignal,
    "SHELL": _shell,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "HEALTHCHECK": _healthcheck,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
}
"""What each of them does; it raises DockerfileError when it would fail."""
