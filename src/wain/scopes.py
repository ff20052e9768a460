"""Which ARG and ENV are in force where in a Dockerfile.

Source: Dockerfile reference (ARG: scope, predefined and platform ARGs; ENV; environment replacement).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from wain.dockerfile import Dockerfile, Instruction, Stage, dockerfile_error
from wain.errors import DockerfileError
from wain.substitution import Expansion, expand

PLATFORM_ARGS = tuple(f"{side}{what}" for side in ("BUILD", "TARGET") for what in ("PLATFORM", "OS", "ARCH", "VARIANT"))
# Usable in RUN without an ARG where they are given, and kept out of the image's history.
PROXY_ARGS = tuple(
    "HTTP_PROXY http_proxy HTTPS_PROXY https_proxy FTP_PROXY ftp_proxy NO_PROXY no_proxy ALL_PROXY all_proxy".split()
)


def platform_args(target: str, build: str | None = None) -> dict[str, str]:
    """The automatic ARGs for platforms written `os/arch[/variant]`; `build` is the target's where it is left out."""
    values: dict[str, str] = {}
    for side, platform in (("TARGET", target), ("BUILD", build or target)):
        parts = [*platform.split("/"), "", ""]
        values[f"{side}PLATFORM"] = platform
        values[f"{side}OS"], values[f"{side}ARCH"], values[f"{side}VARIANT"] = parts[:3]
    return values


class Scope(Struct, kw_only=True):
    """The variables at one point of a stage; `apply` moves it past an instruction.

    None as a value is "set, but not known": an ARG without default that the caller gave no value for, where
    `unknown_args` is true. ENV wins over an ARG of the same name, wherever the two stand.
    """

    escape: str = "\\"
    name: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    global_args: Mapping[str, str | None] = field(default_factory=dict)
    platform: Mapping[str, str | None] = field(default_factory=dict)
    unknown_args: bool = False
    args: dict[str, str | None] = field(default_factory=dict)
    env: dict[str, str | None] = field(default_factory=dict)

    def variables(self) -> dict[str, str | None]:
        """All that substitution and RUN see: the ARGs, then ENV over them."""
        return {**self.args, **self.env}

    def child(self) -> Scope:
        """A scope for a stage FROM this one: its ENV and ARGs are inherited."""
        return Scope(
            escape=self.escape,
            name=self.name,
            build_args=self.build_args,
            global_args=self.global_args,
            platform=self.platform,
            unknown_args=self.unknown_args,
            args=dict(self.args),
            env=dict(self.env),
        )

    def expand(self, text: str, instruction: Instruction | None = None) -> Expansion:
        """`text` with its variables replaced.

        :raises DockerfileError: with the instruction's line, where the text cannot be expanded.
        """
        try:
            return expand(text, self.variables(), escape=self.escape)
        except DockerfileError as error:
            if instruction is None:
                raise
            raise dockerfile_error(self.name, instruction.line, error.message, error.hint) from error

    def apply(self, instruction: Instruction) -> None:
        """Take in an ARG or ENV; other instructions change nothing.

        :raises DockerfileError: where a value cannot be expanded.
        """
        if instruction.keyword == "ENV":
            before = self.variables()
            for key, value in instruction.pairs():
                try:
                    name = expand(key.value, before, escape=self.escape).value
                    expanded = expand(value.value, before, escape=self.escape).value
                except DockerfileError as error:
                    raise dockerfile_error(self.name, instruction.line, error.message, error.hint) from error
                if name:
                    self.env[name] = expanded
        elif instruction.keyword == "ARG":
            for word in instruction.words:
                key_text, equals, default = word.value.partition("=")
                name = self.expand(key_text, instruction).value
                if name:
                    self.args[name] = self._argument(name, default if equals else None, instruction)

    def _argument(self, name: str, default: str | None, instruction: Instruction) -> str | None:
        if name in self.build_args:
            return self.build_args[name]
        if default is not None:
            return self.expand(default, instruction).value
        if name in self.global_args:
            return self.global_args[name]
        if name in self.platform:
            return self.platform[name]
        return None if self.unknown_args else self.args.get(name, "")


def global_scope(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str] | None = None,
    platform: Mapping[str, str | None] | None = None,
    unknown_args: bool = False,
) -> Scope:
    """The scope in which FROM lines are expanded: the ARGs before the first FROM and the platform ARGs.

    :raises DockerfileError: where a default cannot be expanded.
    """
    given = dict(platform or {})
    scope = Scope(
        escape=dockerfile.escape,
        name=dockerfile.name,
        build_args=dict(build_args or {}),
        platform=given,
        unknown_args=unknown_args,
        args=dict(given),
    )
    for instruction in dockerfile.preamble:
        scope.apply(instruction)
    return scope


def stage_scope(globals_: Scope, parent: Scope | None, *, base_env: Mapping[str, str | None] | None = None) -> Scope:
    """The scope at the start of a stage: its parent stage's at that one's end, or the base image's environment."""
    if parent is not None:
        return parent.child()
    return Scope(
        escape=globals_.escape,
        name=globals_.name,
        build_args=globals_.build_args,
        global_args=dict(globals_.args),
        platform=globals_.platform,
        unknown_args=globals_.unknown_args,
        env=dict(base_env or {}),
    )


def parent_stage(stages: tuple[Stage, ...], stage: Stage, image: str | None) -> Stage | None:
    """The earlier stage that `image` (the expanded FROM of `stage`) names; None where it is an image."""
    if image is None:
        return None
    wanted = image.lower()
    for earlier in reversed(stages[: stage.index]):
        if earlier.name == wanted:
            return earlier
    return None


def source_stage(stages: tuple[Stage, ...], stage: Stage, reference: str | None) -> Stage | None:
    """The earlier stage that `--from=reference` names, by name or by index; None where it is an image."""
    if not reference:
        return None
    found = parent_stage(stages, stage, reference)
    if found is not None:
        return found
    if reference.isdecimal() and len(reference) < 6 and int(reference) < stage.index:
        return stages[int(reference)]
    return None
