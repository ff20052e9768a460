"""A stage while it is built: its files, its configuration and history, and how each instruction changes them.

Sources: Dockerfile reference; the history and configuration are those that BuildKit's front end writes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from wain.actions import Echo, Fails, FileCommand, NeedsEngine, Nothing, PipConfig, PipInstall, Venv
from wain.bases import BaseFacts
from wain.copying import CopyOptions, NotFoundInSource, copy_sources, link_in, put_data
from wain.dockerfile import Instruction, dockerfile_error
from wain.errors import DockerfileError
from wain.filework import Actor, CommandFails, do, expand_pattern, user_ids, write_file
from wain.image import Image
from wain.layers import Layer, files_layer
from wain.mounts import mounts
from wain.oci import JSON, History, Runtime
from wain.pipsteps import Share, Tools, WheelFile, pip_install
from wain.scopes import Scope
from wain.shell import run_script
from wain.steps import DEFAULT_SHELL, RunCommand, ShellVariables, copy_needs_engine, run_commands
from wain.store import Store
from wain.substitution import expand, expand_words
from wain.tree import Data, Node, Tree, changes, entries, fetch_contents, joined
from wain.ustar import ZIP_EPOCH
from wain.venvs import make_venv
from wain.wheels import Wheel

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMENT = "buildkit.dockerfile.v0"
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of a stage's history, with the states of the tree around it; `before` None is no layer."""

    created_by: str
    before: Node | None = None
    after: Node | None = None


@dataclass(slots=True, kw_only=True)
class StageBuild:
    """The state of a stage. Copies share what is behind them."""

    name: str
    """The Dockerfile's, for errors."""
    tree: Tree
    runtime: Runtime
    base: Image | None
    scope: Scope
    facts: Callable[[], BaseFacts]
    tools: Tools
    shell: tuple[str, ...] = DEFAULT_SHELL
    records: list[Record] = field(default_factory=list)
    wheels: list[Wheel] = field(default_factory=list)
    author: str | None = None
    args: list[str] = field(default_factory=list)
    """The ARGs that were declared, as RUN's history lists them."""
    cmd_is_set: bool = False
    now: int = ZIP_EPOCH

    def child(self, scope: Scope) -> StageBuild:
        """A stage that goes on from this one."""
        return StageBuild(
            name=self.name,
            tree=self.tree.copy(),
            runtime=self.runtime,
            base=self.base,
            scope=scope,
            facts=self.facts,
            tools=self.tools,
            shell=self.shell,
            records=list(self.records),
            wheels=list(self.wheels),
            author=self.author,
            args=list(self.args),
            now=self.now,
        )

    def fail(self, instruction: Instruction, message: str, hint: str = "") -> DockerfileError:
        return dockerfile_error(self.name, instruction.line, message, hint)

    def text(self, text: str, instruction: Instruction) -> str:
        """A value with its variables replaced."""
        return self.scope.expand(text, instruction).value or ""

    def apply(self, instruction: Instruction, sources: Sources) -> None:
        """Do one instruction.

        :raises NeedsEngine: when it has to be run.
        :raises DockerfileError: when it would fail, with its line.
        """
        _HANDLERS[instruction.keyword](self, instruction, sources)
        self.scope.apply(instruction)

    def record(self, created_by: str, before: Node | None = None) -> None:
        after = self.tree.mark() if before is not None else None
        self.records.append(Record(created_by=created_by, before=before, after=after))

    def with_runtime(self, **values: object) -> None:
        self.runtime = replace(self.runtime, **values)  # type: ignore[arg-type]

    def user(self) -> tuple[int, int, str]:
        """uid, gid and home of who runs commands.

        :raises CommandFails: when the user is not known.
        """
        passwd, group = self.accounts()
        text = self.runtime.user or "0"
        uid, gid = user_ids(text, passwd, group)
        entry = next(
            (
                line.split(":")
                for line in passwd.splitlines()
                if line.count(":") >= 6 and line.split(":")[2] == str(uid)
            ),
            None,
        )
        if gid is None:
            gid = int(entry[3]) if entry is not None else 0
        home = entry[5] if entry is not None else "/"
        return uid or 0, gid, home or "/"

    def accounts(self) -> tuple[str, str]:
        return self.tree.text("etc/passwd") or "", self.tree.text("etc/group") or ""

    def workdir(self) -> str:
        return self.runtime.working_dir or "/"

    def layers(self, store: Store) -> tuple[list[Layer], list[History]]:
        """The layers above the base, and the history above the base's, in order.

        :raises WainError: of every kind that reading the files can have.
        """
        layers: list[Layer] = []
        history: list[History] = []
        for record in self.records:
            made = self._layers_of(record, store) if record.before is not None else []
            for layer in made:
                history.append(History(created_by=record.created_by, comment=_COMMENT))
                layers.append(layer)
            if not made:
                history.append(History(created_by=record.created_by, comment=_COMMENT, empty_layer=True))
        return layers, history

    def _layers_of(self, record: Record, store: Store) -> list[Layer]:
        assert record.before is not None and record.after is not None
        found = changes(record.before, record.after)
        if not found:
            return []
        tree = Tree(record.after)
        shares: dict[int, tuple[Share, list[str]]] = {}
        for path, node in found.nodes:
            content = node.content
            if (
                isinstance(content, WheelFile)
                and content.file.path == path
                and (node.mode, node.uid, node.gid, node.mtime) == (content.file.mode, 0, 0, ZIP_EPOCH)
            ):
                shares.setdefault(id(content.share), (content.share, []))[1].append(path)
        covered: set[str] = set()
        shared: list[Layer] = []
        for share, paths in shares.values():
            if len(paths) == share.count:
                shared.append(share.layer(tree, store))
                covered.update(paths)
        folders: set[str] = set()
        for path in covered:
            folder = path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        rest = [item for item in found.nodes if item[0] not in covered and item[0] not in folders]
        layers: list[Layer] = []
        if rest or found.removed or found.replaced:
            fetch_contents(replace(found, nodes=tuple(rest)))
            made = entries(found, without=frozenset(covered))
            layers.append(files_layer(made, store=store, created_by=record.created_by))
        return [*layers, *shared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where COPY takes files from: the context, and what `--from` names."""

    context: Callable[[], Tree]
    named: Callable[[str], Tree]


def _shown(words: tuple[str, ...]) -> str:
    """A list as Go's %q prints it."""
    import json

    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


def _env(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
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


def _label(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    labels = dict(stage.runtime.labels)
    told = []
    for key, value in instruction.pairs():
        name, text = stage.text(key.value, instruction), stage.text(value.value, instruction)
        labels[name] = text
        told.append(f"{name}={text}")
    stage.with_runtime(labels=labels)
    stage.record(f"LABEL {' '.join(told)}")


def _arg(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    told = []
    for word in instruction.words:
        name, equals, default = word.value.partition("=")
        name = stage.text(name, instruction)
        told.append(f"{name}={stage.text(default, instruction)}" if equals else name)
        stage.args = [*(one for one in stage.args if one != name), name]
    stage.record(f"ARG {' '.join(told)}")


def _workdir(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
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


def _user(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    value = stage.text(instruction.arguments, instruction)
    stage.with_runtime(user=value)
    stage.record(f"USER {value}")


def _expose(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
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


def _volume(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    volumes = [stage.text(word, instruction) for word in instruction.values]
    stage.with_runtime(volumes=tuple(dict.fromkeys((*stage.runtime.volumes, *volumes))))
    stage.record(f"VOLUME [{' '.join(volumes)}]")


def _stopsignal(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    value = stage.text(instruction.arguments, instruction)
    stage.with_runtime(stop_signal=value)
    stage.record(f"STOPSIGNAL {value}")


def _shell(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    stage.shell = instruction.values
    stage.with_runtime(shell=instruction.values)
    stage.record(f"SHELL [{' '.join(instruction.values)}]")


def _started(stage: StageBuild, instruction: Instruction) -> tuple[str, ...]:
    return instruction.values if instruction.is_json else (*stage.shell, instruction.arguments)


def _cmd(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    words = _started(stage, instruction)
    stage.with_runtime(cmd=words, others={**stage.runtime.others, "ArgsEscaped": True})
    stage.cmd_is_set = True
    stage.record(f"CMD {_shown(words)}")


def _entrypoint(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
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


def _healthcheck(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
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


def _maintainer(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    stage.author = instruction.arguments
    stage.record(f"MAINTAINER {instruction.arguments}")


def _onbuild(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    stage.with_runtime(on_build=(*(stage.runtime.on_build or ()), instruction.arguments))


def _octal_mode(text: str, stage: StageBuild, instruction: Instruction) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise stage.fail(instruction, f"--chmod={text} is no octal mode", "Write --chmod=755.")
    return int(text, 8)


def _heredoc_text(text: str, stage: StageBuild, instruction: Instruction) -> str:
    """A here-document with its variables replaced; quotes are text like any other."""
    hidden = text.replace("'", "\ue000").replace('"', "\ue001")
    value = stage.scope.expand(hidden, instruction).value or ""
    return value.replace("\ue000", "'").replace("\ue001", '"')


def _copy(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    reason = copy_needs_engine(instruction, stage.scope)
    if reason is not None:
        raise NeedsEngine(reason)
    words = [stage.text(word, instruction) for word in instruction.values]
    *patterns, destination = words
    documents = {heredoc.name: heredoc for heredoc in instruction.heredocs}
    flags = {flag.name: stage.text(flag.value or "", instruction) for flag in instruction.flags}
    options = CopyOptions(
        owner=_owner(flags["chown"], stage, instruction) if "chown" in flags else None,
        mode=_octal_mode(flags["chmod"], stage, instruction) if flags.get("chmod") else None,
        exclude=tuple(
            stage.text(flag.value or "", instruction) for flag in instruction.flags if flag.name == "exclude"
        ),
        parents=_is_on(instruction, "parents"),
        unpacks=instruction.keyword == "ADD",
    )
    is_linked = _is_on(instruction, "link")
    trailing = "/" if destination.endswith(("/", "/.")) or destination in (".", "") else ""
    place = "/" + joined(stage.workdir(), destination) + trailing
    before = stage.tree.mark()
    target = Tree() if is_linked else stage.tree
    told = [instruction.keyword]
    told += [f"--{name}" for name in ("parents",) if options.parents]
    told += [f"--{name}={flags[name]}" for name in ("chown", "chmod") if flags.get(name)]
    files: list[str] = []
    if len(patterns) > 1 and not trailing:
        there = stage.tree.find(place)
        if there is None or there.kind != "directory":
            raise stage.fail(
                instruction, "several sources need a destination that ends in a slash", f"Write {destination}/ ."
            )
    try:
        for raw, pattern in zip(instruction.values, patterns, strict=False):
            document = documents.get(raw.lstrip("<-").strip("'\"")) if raw.startswith("<<") else None
            if document is not None:
                text = _heredoc_text(document.text, stage, instruction) if document.expand else document.text
                data = text.encode("utf-8", "surrogateescape")
                put_data(target, document.name, data, place, options)
                told.append(f"<<{document.name}")
            else:
                files.append(pattern)
                told.append(pattern)
        if files:
            origin = flags.get("from")
            source = sources.named(origin) if origin else sources.context()
            copy_sources(source, files, target, place, options)
    except NotFoundInSource as error:
        where = f"in {flags['from']}" if flags.get("from") else "in the context"
        raise stage.fail(
            instruction,
            f"there is no {error} {where}",
            "Mend the path; what .dockerignore names is not in the context.",
        ) from error
    except DockerfileError as error:
        raise stage.fail(instruction, error.message, error.hint) from error
    if is_linked:
        link_in(target, stage.tree)
    stage.record(" ".join([*told, destination]) + " # buildkit", before)


def _is_on(instruction: Instruction, name: str) -> bool:
    value = instruction.flag(name)
    return value is not None and value.lower() not in ("false", "0", "f")


def _owner(text: str, stage: StageBuild, instruction: Instruction) -> tuple[int, int]:
    passwd, group = stage.accounts()
    try:
        uid, gid = user_ids(text, passwd, group)
    except CommandFails as error:
        raise stage.fail(
            instruction, f"--chown={text}: {error}", "Make the user in a base, or give its number."
        ) from error
    if gid is None:
        name = text.partition(":")[0]
        key = 2 if name.isdigit() else 0
        entry = next(
            (line.split(":") for line in passwd.splitlines() if line.count(":") >= 6 and line.split(":")[key] == name),
            None,
        )
        gid = int(entry[3]) if entry is not None and not name.isdigit() else (uid or 0)
    return uid or 0, gid


def _run(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    before = stage.tree.mark()
    try:
        uid, gid, home = stage.user()
    except CommandFails as error:
        raise stage.fail(instruction, str(error)) from error
    values = {name: value for name, value in stage.scope.variables().items() if value is not None}
    values.setdefault("HOME", home)
    values.setdefault("PATH", DEFAULT_PATH)
    mounted = _mount_secrets(stage, instruction, values)
    try:
        commands = list(run_commands(instruction, ShellVariables(values), stage.workdir(), stage.shell))
        if not instruction.is_json and commands:
            _need_shell(stage)
        failed = 0
        for command in commands:
            if command.attempt and command.attempt == failed:
                continue
            actor_home = command.env.get("HOME", home)
            passwd, group = stage.accounts()
            actor = Actor(uid=uid, gid=gid, cwd=command.cwd, passwd=passwd, group=group, now=stage.now)
            try:
                _do(stage, command, actor, {**command.env, "HOME": actor_home})
            except CommandFails as error:
                if not command.attempt:
                    raise
                failed = command.attempt
                if isinstance(command.action, PipInstall | Venv):
                    raise NeedsEngine(str(error)) from error
    except CommandFails as error:
        raise stage.fail(instruction, f"RUN would fail: {error}", "Mend the command.") from error
    for path, node in mounted:
        if node is None:
            stage.tree.remove(path)
        else:
            stage.tree.put(path, node)
    text = _run_text(stage, instruction)
    listed = [f"{name}={value}" for name in stage.args if (value := stage.scope.variables().get(name)) is not None]
    arguments = [f"|{len(listed)}", *listed] if listed else []
    stage.record(" ".join(["RUN", *arguments, *text, "# buildkit"]), before)


def _need_shell(stage: StageBuild) -> None:
    node = stage.tree.find(stage.shell[0])
    if node is None:
        raise CommandFails(f"the image has no {stage.shell[0]}")


def _run_text(stage: StageBuild, instruction: Instruction) -> tuple[str, ...]:
    if instruction.is_json:
        return instruction.values
    script = run_script(instruction, stage.shell)
    text = script.text if script is not None and instruction.heredocs else instruction.arguments
    return (*stage.shell, text)


def _do(stage: StageBuild, command: RunCommand, actor: Actor, env: Mapping[str, str]) -> None:
    action = command.action
    tree = stage.tree
    if command.output is not None:
        text = action.text if isinstance(action, Echo) else ""
        operator, path = command.output
        write_file(tree, path, text.encode("utf-8", "surrogateescape"), actor, append=operator == ">>")
        return
    if isinstance(action, Fails):
        raise CommandFails(action.told)
    if isinstance(action, Nothing | Echo):
        if command.argv[0] == "cd":
            node = tree.find(command.cwd)
            if node is None or node.kind != "directory":
                raise CommandFails(f"cd: there is no folder {command.argv[1]}")
        return
    if isinstance(action, FileCommand):
        operands: list[str] = []
        for index in action.operands:
            word = command.argv[index]
            operands += expand_pattern(tree, word, actor.cwd) if index in command.patterns else [word]
        do(tree, action, operands, actor)
    elif isinstance(action, PipConfig):
        _pip_config(stage, action, actor, env)
    elif isinstance(action, Venv):
        stage.wheels += make_venv(action, tree, stage.facts(), env, actor, stage.tools)
    elif isinstance(action, PipInstall):
        stage.wheels += pip_install(action, tree, stage.facts(), env, actor, stage.tools)
    else:
        raise NeedsEngine(f"{command.argv[0]} has to be run")


def _pip_config(stage: StageBuild, action: PipConfig, actor: Actor, env: Mapping[str, str]) -> None:
    if action.scope == "site":
        raise NeedsEngine("pip config --site has to be run")
    home = env.get("XDG_CONFIG_HOME") or f"{env.get('HOME', '/root')}/.config"
    path = "/etc/pip.conf" if action.scope == "global" else f"{home}/pip/pip.conf"
    if stage.tree.find(path) is not None:
        raise NeedsEngine("pip config of a file that is there already has to be run")
    folder = posixpath.dirname(path)
    done = ""
    for part in folder.strip("/").split("/"):
        done = f"{done}/{part}"
        if stage.tree.find(done) is None:
            # pip makes its folder for the user alone.
            stage.tree.make_folders(done, mode=0o755, uid=actor.uid, gid=actor.gid)
    sections: dict[str, list[str]] = {}
    for name, value in action.values:
        section, _, key = name.partition(".")
        if not key:
            raise CommandFails(f"pip config: {name} has no section")
        sections.setdefault(section, []).append(f"{key} = {value}\n")
    text = "".join(f"[{section}]\n{''.join(lines)}\n" for section, lines in sections.items())
    write_file(stage.tree, path, text.encode(), actor, append=False)


def _mount_secrets(
    stage: StageBuild, instruction: Instruction, values: dict[str, str]
) -> list[tuple[str, Node | None]]:
    """Puts a RUN's secrets where it mounts them; what was there before, for afterwards."""
    before: list[tuple[str, Node | None]] = []
    for mount in mounts(instruction):
        if mount.kind != "secret":
            continue
        name = stage.text(mount.id or posixpath.basename(mount.target or ""), instruction)
        data = stage.tools.secrets.get(name)
        if data is None:
            if mount.required:
                raise stage.fail(
                    instruction, f"the secret {name} is not given", f"Give it: --secret id={name},src=FILE."
                )
            continue
        if mount.env is not None:
            values[mount.env] = data.decode("utf-8", "surrogateescape")
            if mount.target is None:
                continue
        path = stage.tree.resolve(joined(stage.workdir(), mount.target or f"/run/secrets/{name}"))
        parts = path.split("/")
        missing = next(
            (place for end in range(1, len(parts)) if stage.tree.get(place := "/".join(parts[:end])) is None), None
        )
        if missing is not None:
            before.insert(0, (missing, None))
        else:
            before.insert(0, (path, stage.tree.get(path)))
        stage.tree.make_folders(posixpath.dirname(path))
        stage.tree.put(path, Node(kind="file", mode=0o400, size_bytes=len(data), content=Data(data)))
    return before


_HANDLERS: dict[str, Callable[[StageBuild, Instruction, Sources], None]] = {
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
    "COPY": _copy,
    "ADD": _copy,
    "RUN": _run,
}
