"""What the instructions of a Dockerfile do, followed stage by stage without running anything.

`follow(dockerfile)` walks the stages with user, home, environment, working directory and shell, takes wrappers (sudo,
env, sh -c, ...) off each command of each RUN, and says which caches fill, what is mounted, what the same RUN removes
again, and which stages' files reach the image. What it cannot know it says is unknown, and no rule guesses on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from wain.dockerfile import Dockerfile, Instruction, Span, Stage
from wain.errors import DockerfileError
from wain.installers import cache_use, cleaned_folders
from wain.invocation import CacheUse, Invocation
from wain.known_images import KnownImage, known_image
from wain.mounts import Mount, mounts
from wain.paths import absolute, covers, expand_braces, inside
from wain.scopes import Scope, global_scope, parent_stage, source_stage, stage_scope
from wain.shell import Script, Word, run_script
from wain.walk import Call, Walker

Reader = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who runs: `name` as in USER, uid where it is known ("0" for root), home where it is known."""

    name: str | None
    uid: str | None
    home: str | None

    @property
    def is_root(self) -> bool | None:
        """Whether it is root; None where it is not known."""
        if self.uid == "0" or self.name in {"root", "0"}:
            return True
        return None if self.name is None else False


ROOT = User(name="root", uid="0", home="/root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A RUN's mount with its values expanded; None where one is unknown."""

    mount: Mount
    target: str | None
    id: str | None
    uid: str | None

    @property
    def kind(self) -> str:
        """bind, cache, tmpfs, secret or ssh."""
        return self.mount.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Something a command deletes: an absolute path or pattern, and where in the script."""

    pattern: str
    branch: tuple[int, ...]
    order: int
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A cache use by one command of a RUN."""

    cache: CacheUse
    call: Call


@dataclass(slots=True, kw_only=True)
class Run:
    """One RUN (or a shell form inside ONBUILD), with everything its commands do."""

    instruction: Instruction
    holder: Instruction
    stage: StageTrace
    script: Script | None
    env: Mapping[str, str | None]
    user: User
    workdir: str | None
    mounts: tuple[Mounted, ...]
    calls: list[Call] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)

    def mount_over(self, folder: str) -> Mounted | None:
        """The mount that keeps a folder out of the layer; None where there is none."""
        for mounted in self.mounts:
            if mounted.kind in {"cache", "tmpfs", "bind"} and mounted.target is not None:
                if inside(folder, mounted.target):
                    return mounted
                if folder.startswith("~/") and f"{mounted.target}/".endswith(f"{folder[1:]}/"):
                    return mounted
        return None

    @property
    def has_unknown_mount(self) -> bool:
        """Whether a mount's target could not be expanded."""
        return any(mounted.target is None and mounted.kind in {"cache", "tmpfs"} for mounted in self.mounts)

    def removed(self, folder: str, use: Use) -> bool:
        """Whether the RUN itself removes a folder after the command that filled it, whenever that command ran."""
        return any(
            removal.order > use.call.order
            and use.call.branch[: len(removal.branch)] == removal.branch
            and covers(removal.pattern, folder)
            for removal in self.removals
        )

    def left(self, use: Use) -> tuple[str, ...]:
        """The folders of an enabled cache that this RUN leaves in its layer."""
        if use.cache.enabled is not True or self.has_unknown_mount:
            return ()
        return tuple(
            folder for folder in use.cache.folders if self.mount_over(folder) is None and not self.removed(folder, use)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFrom:
    """COPY --from=stage: what of the stage goes on."""

    instruction: Instruction
    stage_index: int
    sources: tuple[str | None, ...]


@dataclass(slots=True, kw_only=True)
class Step:
    """An instruction with the state in which it stands."""

    instruction: Instruction
    env: Mapping[str, str | None]
    args: Mapping[str, str | None]
    user: User
    workdir: str | None


@dataclass(slots=True, kw_only=True)
class StageTrace:
    """One stage: its base, its steps and runs in order, and whether its files reach an image.

    `ships` is final (its layers are in the last stage's image), target (only in an image built with --target) or
    discarded. `copied` are the folders that COPY --from takes from it into stages that ship.
    """

    stage: Stage
    image: str | None
    parent: StageTrace | None
    base: KnownImage
    steps: list[Step] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    copies: list[CopiedFrom] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    user: User = ROOT
    workdir: str | None = "/"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    ships: str = "discarded"
    copied: list[str | None] = field(default_factory=list)

    def keeps(self, folder: str) -> bool:
        """Whether a folder of this stage's end reaches the image: by FROM, or by a COPY --from that takes it in."""
        if self.ships != "discarded":
            return True
        return any(source is not None and (inside(folder, source) or inside(source, folder)) for source in self.copied)

    def ancestors(self) -> Iterator[StageTrace]:
        """The stages that this one is FROM, nearest first."""
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    @property
    def root_image(self) -> str | None:
        """The image at the bottom; None where it is unknown."""
        return self.parent.root_image if self.parent is not None else self.image


@dataclass(slots=True, kw_only=True)
class Trace:
    """The whole file, followed. `problems` are what could not be followed: (line, message)."""

    dockerfile: Dockerfile
    globals: Scope
    stages: list[StageTrace]
    problems: list[tuple[int, str]]

    def runs(self) -> Iterator[Run]:
        """All RUNs in order."""
        for stage in self.stages:
            yield from stage.runs

    def release(self) -> None:
        """Take the runs off their stages: what points both ways waits for the collector, which is slow."""
        for stage in self.stages:
            stage.runs.clear()

    @property
    def uses_buildkit(self) -> bool:
        """Whether the file already uses what only BuildKit has: mounts, heredocs, --link, a syntax directive."""
        return any(directive.name == "syntax" for directive in self.dockerfile.directives) or any(
            instruction.heredocs
            or any(flag.name in {"mount", "link", "parents", "exclude", "network"} for flag in instruction.flags)
            for instruction in self.dockerfile.instructions
        )


def follow(
    dockerfile: Dockerfile,
    *,
    read: Reader | None = None,
    build_args: Mapping[str, str] | None = None,
    platform: Mapping[str, str | None] | None = None,
    base: Callable[[str | None], KnownImage] = known_image,
) -> Trace:
    """Follow a Dockerfile; `read` gives the text of a file of the build context by its relative path, None for none.

    With `build_args`, those of a build, an ARG without a value is empty; without them it is not known. `base` says
    what is known of an image.

    Never fails on a file that parses: what does not make sense stands in `problems`.
    """
    problems: list[tuple[int, str]] = []
    try:
        scope = global_scope(dockerfile, build_args=build_args, platform=platform, unknown_args=build_args is None)
    except DockerfileError as error:
        problems.append((1, error.message))
        scope = Scope(escape=dockerfile.escape, name=dockerfile.name, unknown_args=True)
    trace = Trace(dockerfile=dockerfile, globals=scope, stages=[], problems=problems)
    stages = dockerfile.stages
    for stage in stages:
        image: str | None
        try:
            image = scope.expand(stage.image, stage.opening).value
        except DockerfileError as error:
            problems.append((stage.opening.line, error.message))
            image = None
        below = parent_stage(stages, stage, image)
        parent = trace.stages[below.index] if below is not None else None
        known = parent.base if parent is not None else base(image)
        trace.stages.append(_Follower(trace, stage, image, parent, known, read).follow())
    _mark_shipping(trace)
    return trace


def _mark_shipping(trace: Trace) -> None:
    if not trace.stages:
        return
    consumed: set[int] = set()
    for one in trace.stages:
        consumed.update(copy.stage_index for copy in one.copies)
        if one.parent is not None:
            consumed.add(one.parent.stage.index)
    for one in trace.stages:
        if one.stage.index not in consumed:
            one.ships = "target"
            for ancestor in one.ancestors():
                if ancestor.ships == "discarded" and not any(
                    ancestor.stage.index == copy.stage_index for other in trace.stages for copy in other.copies
                ):
                    ancestor.ships = "target"
    last = trace.stages[-1]
    last.ships = "final"
    for ancestor in last.ancestors():
        ancestor.ships = "final"
    # A copy of a copy still ships: later stages are looked at first.
    for one in reversed(trace.stages):
        if one.ships == "discarded" and not one.copied:
            continue
        for copy in one.copies:
            if one.ships == "target":
                continue
            trace.stages[copy.stage_index].copied.extend(copy.sources)


class _Follower:
    def __init__(
        self,
        trace: Trace,
        stage: Stage,
        image: str | None,
        parent: StageTrace | None,
        base: KnownImage,
        read: Reader | None,
    ) -> None:
        self.trace = trace
        self.read = read
        self.it = StageTrace(stage=stage, image=image, parent=parent, base=base)
        it = self.it
        if parent is not None:
            it.scope = stage_scope(trace.globals, parent.scope)
            it.files, it.users = dict(parent.files), dict(parent.users)
            it.user, it.workdir, it.shell = parent.user, parent.workdir, parent.shell
        else:
            it.scope = stage_scope(trace.globals, None, base_env=base.env)
            it.users = {"root": ROOT, "nobody": User(name="nobody", uid="65534", home="/nonexistent")}
            for name, (uid, home) in base.users.items():
                it.users[name] = User(name=name, uid=uid, home=home)
            it.user = it.users[base.user] if base.user else ROOT
            it.workdir = base.workdir
            if base.bash:
                it.shell = ("/bin/bash", "-c")
            if image is not None and "nonroot" in image and "distroless" in image:
                it.user = User(name="nonroot", uid="65532", home="/home/nonroot")

    def follow(self) -> StageTrace:
        for instruction in self.it.stage.instructions:
            try:
                self.step(instruction)
            except DockerfileError as error:
                self.trace.problems.append((instruction.line, error.message))
        return self.it

    def expand(self, text: str) -> str | None:
        try:
            return self.it.scope.expand(text).value
        except DockerfileError:
            return None

    def step(self, instruction: Instruction) -> None:
        it = self.it
        it.steps.append(
            Step(
                instruction=instruction,
                env=dict(it.scope.env),
                args=dict(it.scope.args),
                user=it.user,
                workdir=it.workdir,
            )
        )
        keyword = instruction.keyword
        if keyword in {"ARG", "ENV"}:
            it.scope.apply(instruction)
        elif keyword == "USER" and instruction.words:
            it.user = self.user(it.scope.expand(instruction.words[0].value, instruction).value)
        elif keyword == "WORKDIR" and instruction.words:
            it.workdir = absolute(it.scope.expand(instruction.words[0].value, instruction).value, it.workdir)
        elif keyword == "SHELL" and instruction.is_json:
            it.shell = instruction.values
        elif keyword in {"COPY", "ADD"}:
            self.copy(instruction)
        elif keyword == "RUN":
            self.run(instruction, instruction)
        elif keyword == "ONBUILD" and instruction.trigger is not None and instruction.trigger.keyword == "RUN":
            self.run(instruction.trigger, instruction)

    def user(self, text: str | None) -> User:
        if text is None:
            return User(name=None, uid=None, home=None)
        name = text.partition(":")[0]
        known = self.it.users.get(name)
        if known is not None:
            return known
        for user in self.it.users.values():
            if user.uid == name:
                return user
        if name.isdecimal():
            return ROOT if name == "0" else User(name=name, uid=name, home="/")
        return User(name=name, uid=None, home=f"/home/{name}")

    def copy(self, instruction: Instruction) -> None:
        it = self.it
        reference = instruction.flag("from")
        values = [self.expand(word.value) if not instruction.is_json else word.value for word in instruction.words]
        if reference is not None:
            stages = self.trace.dockerfile.stages
            source = source_stage(stages, it.stage, self.expand(reference))
            if source is not None:
                sources = tuple(absolute(value, "/") for value in values[:-1])
                it.copies.append(CopiedFrom(instruction=instruction, stage_index=source.index, sources=sources))
            return
        if len(values) < 2:
            return
        target = absolute(values[-1], it.workdir)
        if target is None:
            return
        into_folder = (values[-1] or "").endswith("/") or len(values) > 2
        heredocs = {f"<<{'-' if heredoc.chomp else ''}{heredoc.name}": heredoc for heredoc in instruction.heredocs}
        for word, source_path in zip(instruction.words, values[:-1], strict=False):
            heredoc = next(
                (one for key, one in heredocs.items() if word.value.replace("'", "").replace('"', "") == key), None
            )
            if heredoc is not None:
                path = f"{target}/{heredoc.name}" if into_folder else target
                it.files[path] = heredoc.text if not (heredoc.expand and "$" in heredoc.text) else None
                continue
            if source_path is None or "://" in source_path:
                continue
            base = source_path.rstrip("/").rpartition("/")[2]
            named = base in {"pip.conf", "uv.toml", ".netrc", ".condarc"}
            path = f"{target.rstrip('/')}/{base}" if into_folder or (named and not target.endswith(base)) else target
            if path.rpartition("/")[2] in {"pip.conf", "uv.toml"}:
                it.files[path] = self.read(source_path.lstrip("/")) if self.read is not None else None

    def run(self, instruction: Instruction, holder: Instruction) -> None:
        it = self.it
        try:
            mounted = tuple(self.mounted(mount) for mount in mounts(instruction, name=self.trace.dockerfile.name))
        except DockerfileError as error:
            self.trace.problems.append((instruction.line, error.message))
            mounted = ()
        env = it.scope.variables()
        shell = it.shell
        script = run_script(instruction, shell)
        run = Run(
            instruction=instruction,
            holder=holder,
            stage=it,
            script=script,
            env=env,
            user=it.user,
            workdir=it.workdir,
            mounts=mounted,
        )
        it.runs.append(run)
        if script is None:
            return
        effects = _Effects(run, self, is_bash=shell[0].rpartition("/")[2] in {"bash", "zsh"})
        walker = Walker(
            env={"HOME": it.user.home, **env} if "HOME" not in env else dict(env),
            cwd=it.workdir,
            user=it.user.name,
            home_of=self.home_of,
            on_call=effects.call,
        )
        walker.script(script)
        run.calls = walker.calls

    def mounted(self, mount: Mount) -> Mounted:
        target = mount.target
        expanded = absolute(self.expand(target), self.it.workdir) if target else None
        return Mounted(
            mount=mount,
            target=expanded,
            id=self.expand(mount.id) if mount.id else None,
            uid=self.expand(mount.uid) if mount.uid else None,
        )

    def home_of(self, name: str) -> str | None:
        return self.user(name).home


class _Effects:
    """Takes in each call of a RUN: caches, removals, files written, users made."""

    def __init__(self, run: Run, follower: _Follower, *, is_bash: bool) -> None:
        self.run = run
        self.follower = follower
        self.is_bash = is_bash
        self.installed: list[str] = []

    def call(self, call: Call) -> None:
        self.files(call)
        program = call.program
        files = self.follower.it.files
        invocation = Invocation(argv=call.argv, env=call.env, home=call.home, files=files, cwd=call.cwd)
        use = cache_use(invocation)
        if use is not None:
            self.run.uses.append(Use(cache=use, call=call))
        for folder in cleaned_folders(invocation):
            self.removal(folder, call)
        if program in {"rm", "rmdir", "unlink", "shred"}:
            for word, value in zip(call.words[1:], call.argv[1:], strict=False):
                if value is None:
                    self.unknown_removal(word, call)
                elif not value.startswith("-"):
                    self.paths(value, call)
        elif program == "find":
            self.find(call)
        elif program in {"useradd", "adduser", "usermod"}:
            self.useradd(call)

    def paths(self, value: str, call: Call) -> None:
        patterns = expand_braces(value) if self.is_bash else [value]
        for pattern in patterns:
            path = absolute(pattern, call.cwd)
            if path is not None:
                self.removal(path, call)

    def unknown_removal(self, word: Word | None, call: Call) -> None:
        """`rm -rf "$CACHE"/pip`: the known tail of an unknown path."""

    def removal(self, pattern: str, call: Call) -> None:
        self.run.removals.append(Removal(pattern=pattern, branch=call.branch, order=call.order, call=call))
        if pattern.startswith("/etc/apt/apt.conf.d/docker-clean"):
            self.follower.it.files["/etc/apt/apt.conf.d/docker-clean"] = ""
        for path in list(self.follower.it.files):
            if not path.endswith("docker-clean") and covers(pattern, path):
                del self.follower.it.files[path]

    def find(self, call: Call) -> None:
        words = call.argv[1:]
        deletes = "-delete" in words or any(
            word in {"-exec", "-execdir"} and index + 1 < len(words) and words[index + 1] in {"rm", "/bin/rm"}
            for index, word in enumerate(words)
        )
        if not deletes or any(word in {"-name", "-iname", "-path", "-mtime", "-newer"} for word in words):
            return
        for word in words:
            if word is None or word.startswith(("-", "(", "!")):
                break
            self.paths(word, call)

    def useradd(self, call: Call) -> None:
        valued = {"-d", "--home", "--home-dir", "-h", "-u", "--uid", "-g", "--gid", "-G", "--groups", "-s", "--shell"}
        valued |= {"-c", "--comment", "--gecos", "-k", "--ingroup", "-b", "--base-dir", "-K", "-p", "--password", "-l"}
        home: str | None = None
        uid: str | None = None
        name: str | None = None
        busybox = call.program == "adduser"
        arguments = list(call.argv[1:])
        index = 0
        while index < len(arguments):
            word = arguments[index]
            index += 1
            if word is None:
                continue
            key, equals, value = word.partition("=")
            if word.startswith("-"):
                takes = key in valued and not (key == "-l" and call.program == "useradd") and not equals
                following = arguments[index] if takes and index < len(arguments) else None
                given = value if equals else following
                if takes:
                    index += 1
                elif not word.startswith("--") and word[-1:] in "dugGsch" and len(word) > 2:
                    # Joined switches, of which the last takes a value: useradd -mu 1000 app.
                    given = arguments[index] if index < len(arguments) else None
                    index += 1
                    key = f"-{word[-1]}"
                if key in {"-d", "--home", "--home-dir"} or (key == "-h" and busybox):
                    if key != "-d" or not busybox:
                        home = given
                elif key in {"-u", "--uid"}:
                    uid = given
            elif name is None:
                name = word
        if name is None:
            return
        users = self.follower.it.users
        before = users.get(name)
        if call.program == "usermod" and before is not None:
            home, uid = home or before.home, uid or before.uid
        users[name] = User(name=name, uid=uid, home=home or f"/home/{name}")

    def files(self, call: Call) -> None:
        """Text that `echo`, `printf` or a here-document writes to a configuration file."""
        files = self.follower.it.files
        for redirection in call.redirections:
            if redirection.operator not in {">", ">>", ">|", "&>"} or redirection.target is None:
                continue
            if redirection.descriptor not in {"", "1"}:
                continue
            path = absolute(redirection.target.value(call.env), call.cwd)
            if path is None or path.rpartition("/")[2] not in {"pip.conf", "uv.toml", ".pypirc", ".netrc"}:
                continue
            text = call.output()
            if redirection.operator == ">>" and path in files:
                earlier = files[path]
                text = earlier + text if earlier is not None and text is not None else None
            files[path] = text
        if call.program == "tee":
            for value in call.argv[1:]:
                path = absolute(value, call.cwd) if value and not value.startswith("-") else None
                if path and path.rpartition("/")[2] in {"pip.conf", "uv.toml"}:
                    files[path] = call.piped_output
        self.pip_config(call)

    def pip_config(self, call: Call) -> None:
        from wain.pip_commands import pip_call, pip_config_paths

        if "config" not in call.argv:
            return
        pip = pip_call(call.argv)
        if pip is None or pip.verb != "config":
            return
        operands = [operand for operand in pip.operands if operand is not None]
        if operands[:1] != ["set"] or len(operands) < 3 or "." not in operands[1]:
            return
        section, _, key = operands[1].partition(".")
        invocation = Invocation(argv=call.argv, env=call.env, home=call.home, files={}, cwd=call.cwd)
        flags = {word for word in call.argv if word in {"--global", "--site", "--user"}}
        if "--global" in flags:
            path = "/etc/pip.conf"
        elif "--site" in flags:
            path = next(iter(pip_config_paths(invocation)), "/usr/local/pip.conf")
        else:
            path = next(
                (one for one in pip_config_paths(invocation) if "/.config/" in one or one.endswith("/pip/pip.conf")),
                "/etc/pip.conf",
            )
        before = self.follower.it.files.get(path, "")
        if before is not None:
            self.follower.it.files[path] = f"[{section}]\n{key} = {operands[2]}\n{before}"


def span_of(run: Run, call: Call) -> Span:
    """Where to point for a call: its command, or the whole instruction where it has no place of its own."""
    return call.command_span if call.command_span.end > call.command_span.start else run.instruction.span
