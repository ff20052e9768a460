"""Follows a Dockerfile stage by stage without running anything.

`follow(dockerfile)` walks the stages with user, home, environment, working directory and shell, takes wrappers (sudo,
env, sh -c, ...) off each command of each RUN, and says which caches fill, what is mounted, what the same RUN removes
again, and which stages' files reach the image. What it cannot know it says is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wain.dockerfile import Dockerfile, Instruction, Stage
from wain.effects import Effects
from wain.errors import DockerfileError
from wain.known_images import KnownImage, known_image
from wain.mounts import Mount, mounts
from wain.paths import absolute
from wain.scopes import Scope, global_scope, parent_stage, source_stage, stage_scope
from wain.shell import run_script
from wain.trace import CONFIGURATIONS, ROOT, CopiedFrom, Mounted, Reader, Run, StageTrace, Step, Trace, User
from wain.walk import Walker


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
            named = base in {*CONFIGURATIONS, ".netrc", ".condarc"}
            path = f"{target.rstrip('/')}/{base}" if into_folder or (named and not target.endswith(base)) else target
            if path.rpartition("/")[2] in CONFIGURATIONS:
                it.files[path] = self.read(source_path.lstrip("/")) if self.read is not None else None
            elif base in {"", "."}:
                self.copy_context(target)

    def copy_context(self, target: str) -> None:
        """`COPY . .` brings a poetry.toml along, if there is one."""
        path = f"{target.rstrip('/')}/poetry.toml"
        if self.read is None:
            self.it.files[path] = None
        elif (text := self.read("poetry.toml")) is not None:
            self.it.files[path] = text

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
        effects = Effects(run, is_bash=shell[0].rpartition("/")[2] in {"bash", "zsh"})
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
