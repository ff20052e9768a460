"""The installations in RUNs that an engine runs: what each asks for, and where in the file its settings can be put.

An engine's container runs pip or uv itself. What is known here without the base says whether it can be given its files,
and whether it would leave a cache in the layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from wain.actions import NeedsEngine, PipInstall
from wain.classify import installation
from wain.dockerfile import Instruction
from wain.pip_commands import pip_boolean
from wain.trace import Run, Use
from wain.walk import Call

# Programs that run a command in an environment of their own choice, or with words of their own.
_CHOOSERS = {
    name: f"{name} run chooses its environment"
    for name in ("poetry", "pipenv", "pdm", "hatch", "rye", "uv", "conda", "mamba", "micromamba")
} | {"xargs": "xargs adds words to it"}
_SWITCHES = {"pip": ("PIP_NO_CACHE_DIR", "off"), "uv": ("UV_NO_CACHE", "1")}
_PATTERN = re.compile(r"[*?].*\.(?:whl|gz|zip)\Z|/[^=]*[*?]")


class EngineInstall(Struct, frozen=True, kw_only=True):
    """One pip or uv of a RUN."""

    instruction: Instruction
    call: Call
    tool: str
    """pip or uv."""
    action: PipInstall | None
    """What it asks for, where that is known from the text."""
    reason: str
    """Why it is not."""
    place: int | None
    """Where `env NAME=VALUE` can be put in front of it; None where the text cannot be edited there."""
    switch: tuple[str, str] | None
    """The variable that keeps its cache out of the layer; None where it leaves none."""

    @property
    def told(self) -> str:
        """The command, shortened."""
        words = " ".join(word if word is not None else "…" for word in self.call.argv)
        return words if len(words) <= 60 else f"{words[:59]}…"


def engine_installs(run: Run) -> Iterator[EngineInstall]:
    """The installations of a RUN in order; none in an ONBUILD, which other builds run."""
    if run.holder is not run.instruction:
        return
    for use in run.uses:
        tool = use.cache.tool
        if tool not in _SWITCHES:
            continue
        action, reason = _asked(use.call)
        place = _place(run, use.call)
        if place is None:
            action, reason = None, "its text cannot be edited in its place"
        yield EngineInstall(
            instruction=run.instruction,
            call=use.call,
            tool=tool,
            action=action,
            reason=reason,
            place=place,
            switch=_switch(run, use),
        )


def _asked(call: Call) -> tuple[PipInstall | None, str]:
    for wrapper in call.wrappers:
        if wrapper in _CHOOSERS:
            return None, _CHOOSERS[wrapper]
    argv = [word for word in call.argv if word is not None]
    if len(argv) != len(call.argv):
        return None, "a word of it is known to its shell only"
    if any(_PATTERN.search(word) for word in argv[1:] if not word.startswith("-")):
        return None, "which files its pattern names is known in the image only"
    try:
        action = installation(argv)
    except NeedsEngine as need:
        return None, need.reason
    if "no-index" in action.options:
        return None, "it asks no index"
    if ":all:" in action.options.get("no-binary", ""):
        return None, "it builds everything, its build tools among it"
    return action, ""


def _place(run: Run, call: Call) -> int | None:
    if run.instruction.is_json:
        return run.instruction.words[0].span.start
    if not call.is_editable or not call.words:
        return None
    word = call.words[0]
    if word is not None:
        return word.span.start
    # `$PIP_INSTALL numpy`: the variable makes several words, and stands first in its command.
    return None if call.wrappers else call.command_span.start


def _switch(run: Run, use: Use) -> tuple[str, str] | None:
    """Unless the file says so itself, mounts something over the cache, or removes it in the same RUN."""
    name, value = _SWITCHES[use.cache.tool]
    given = use.call.env.get(name, "")
    if given is None or (given and pip_boolean(given) is not None):
        return None
    folders = use.cache.folders or (use.cache.home,)
    kept_out = all(run.mount_over(folder) is not None or run.removed(folder, use) for folder in folders if folder)
    return None if kept_out and any(folders) else (name, value)
