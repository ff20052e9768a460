"""A command of wain with its stages timed by the clock: `python -I stage_clock.py RESULT WORDS...`.

The functions that are named here are wrapped when their module has been loaded, and so is loading itself. Nothing else
is slowed down, so that shares are what they are without it. Only the main thread is looked at; a stage that begins in
another takes the time from it.
"""

from __future__ import annotations

import sys
import time
from _thread import get_ident

# Nothing more is imported here: what a command loads itself is to be seen.
FIRST = time.monotonic()
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[..., Any]

IMPORTS = "imports"
REST = "the rest"
STAGES = {
    "base and its facts": ("wain.base_choice:bases_for", "wain.bases:base_facts"),
    "layers that are known": ("wain.known_layers:reuse_for",),
    "project and settings": (
        "wain.project:load_project", "wain.settings:wain_settings", "wain.settings:index_settings",
    ),
    "lock": ("wain.lock:Lock.read", "wain.locking:lock_for", "wain.locking:select_for"),
    "downloads": ("wain.locking:fetch_selected",),
    "wheels to layers": ("wain.build:_Maker.rows",),
    "paths that wheels share": ("wain.build:_Maker.together",),
    "bytecode": ("wain.build:_Maker.bytecode",),
    "project's layer": ("wain.project:project_layer",),
    "to the registry": ("wain.pipeline:deliver",),
}  # fmt: skip
"""Stage -> functions as `module:name`."""
ANSWER = "http.client:HTTPResponse.begin"
"""Waits for the head of an answer."""


class Clock:
    """Seconds by stage, since it began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.imports: list[tuple[float, float]] = []
        """Begin and end of each time that something was loaded."""
        self.awaited: list[tuple[float, float]] = []
        """Begin and end of each wait for an answer, in any thread."""
        self._open = [REST]
        self._since = FIRST
        self._main = get_ident()

    def _switch(self) -> float:
        now = time.monotonic()
        stage = self._open[-1]
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
        return now

    def stop(self) -> float:
        """When it was stopped."""
        return self._switch()

    def timed(self, call: Call, stage: str) -> Call:
        """A function that counts as a stage where the main thread calls it."""

        def run(*words: Any, **options: Any) -> Any:
            if get_ident() != self._main:
                return call(*words, **options)
            began = self._switch()
            is_first = stage == IMPORTS and IMPORTS not in self._open
            self._open.append(stage)
            try:
                return call(*words, **options)
            finally:
                ended = self._switch()
                self._open.pop()
                if is_first:
                    self.imports.append((began, ended))

        return run

    def stage(self, name: str) -> Callable[[Call], Call]:
        """What makes a function count as that stage."""
        return lambda call: self.timed(call, name)

    def awaiting(self, call: Call) -> Call:
        """A function whose time is kept, whoever calls it."""

        def run(*words: Any, **options: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*words, **options)
            finally:
                self.awaited.append((began, time.monotonic()))

        return run


def wrap(place: str, wrapper: Callable[[Call], Call]) -> None:
    """Replace a function, named as `module:name` or `module:class.name`, by its wrapped form.

    :raises AttributeError: when there is none.
    """
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = sys.modules[module]
    for part in owners:
        owner = getattr(owner, part)
    call = vars(owner).get(name)
    if call is None:
        raise AttributeError(f"{place} is gone: name what does its work now in {__name__}")
    setattr(owner, name, classmethod(wrapper(call.__func__)) if isinstance(call, classmethod) else wrapper(call))


def watch(clock: Clock) -> None:
    """Time loading from now on, and every function of the stages as soon as it is there."""
    waiting: dict[str, list[tuple[str, Callable[[Call], Call]]]] = {
        ANSWER.partition(":")[0]: [(ANSWER, clock.awaiting)]
    }
    for stage, places in STAGES.items():
        for place in places:
            waiting.setdefault(place.partition(":")[0], []).append((place, clock.stage(stage)))
    loader: Any = sys.modules["_frozen_importlib"]
    load = clock.timed(loader._find_and_load, IMPORTS)

    def find_and_load(name: str, import_: Call) -> Any:
        module = load(name, import_)
        for place, wrapper in waiting.pop(name, ()):
            wrap(place, wrapper)
        return module

    loader._find_and_load = find_and_load


def run(words: list[str]) -> dict[str, object]:
    """What a command line of wain took."""
    clock = Clock()
    watch(clock)
    from wain.commands.main import main

    code = main(words)
    ended = clock.stop()
    return {
        "code": code,
        "first": FIRST,
        "ended": ended,
        "stages": clock.seconds,
        "imports": clock.imports,
        "awaited": clock.awaited,
    }


if __name__ == "__main__":
    found = run(sys.argv[2:])
    import json

    with open(sys.argv[1], "w") as stream:
        text = json.dumps(found)
        # What follows is the end of the process alone.
        stream.write(json.dumps({"written": time.monotonic(), "found": text}))
