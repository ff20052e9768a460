"""The `wain` command of this environment, run as a user runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.real.machines.processes import Finished, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Wain:
    """The command with a store of its own; `env` is added to each call's environment (an index's settings, say)."""

    store: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = 600,
        check: bool = True,
    ) -> Finished:
        """Run `wain` with those words to its end.

        :raises AssertionError: when it fails, unless `check` is false
        """
        return run(
            [Path(sys.executable).parent / "wain", *words],
            env={"WAIN_CACHE_DIR": str(self.store), **self.env, **(env or {})},
            cwd=cwd,
            timeout_seconds=timeout_seconds,
            check=check,
        )
