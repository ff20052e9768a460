"""Which builders do which steps in which order, and what is repeated in the time that is left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import builders as every
from benchmarks.builders import Builder
from benchmarks.scenarios import ALL, DATA, ML, WEB, Scenario

STEPS = ("cold", "unchanged", "source", "bump", "fresh")
SHORT_MINUTES = 14.0
"""When the short form begins nothing more, its set-up apart; BENCH_MINUTES names another time."""
ML_SECONDS = 330
"""What the large images of the short form take, with profiles after them."""
MOST_ROUNDS = 5
_MARGIN = 1.1

Record = dict[str, float]
Cells = dict[str, dict[str, list[Record]]]
"""Step -> builder -> what each round measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one pass over a scenario does: these builders, with these steps each."""

    scenario: Scenario
    builders: Mapping[str, tuple[str, ...]]
    """Builder's name -> steps."""
    starts: int = 0
    """How often each image is started, for the time to its first answer; the least is kept."""


_COLD: tuple[str, ...] = ("cold",)
# Where there is no lock, a fresh machine does what a cold build does.
_UV_PIP: tuple[str, ...] = ("cold", "unchanged", "source", "bump")
_WEB = {every.WAIN: STEPS, every.UV_SYNC: STEPS, every.UV_PIP: _UV_PIP}
_DATA = {
    every.WAIN: STEPS, every.UV_SYNC: STEPS, every.UV_PIP: _UV_PIP,
    every.PIP_NO_CACHE: _COLD, every.PIP_NO_COMPILE: _COLD,
}  # fmt: skip
_ML = {every.WAIN: STEPS, every.UV_SYNC: ("cold", "source", "bump"), every.PIP_NO_CACHE: _COLD}


def short_turns() -> list[Turn]:
    """What the short form does once, the most telling first; `last_turn` comes after."""
    web = {**_WEB, **dict.fromkeys((every.WAIN_BUILT_IN, every.PIP_PLAIN, every.PIP_NO_COMPILE), _COLD)}
    others = {
        every.WAIN: _COLD,
        **{builder: _COLD for builder in every.ALL if builder not in web},
        every.PIP_MOUNT: ("cold", "bump"),
        every.UV_INLINE: ("cold", "fresh"),
    }
    return [
        _turn(DATA, {**_DATA, every.WAIN_COMPILE: _COLD}, starts=1),
        _turn(WEB, web, starts=1),
        _turn(WEB, others, starts=1),
    ]


def last_turn(seconds: float) -> Turn:
    """What the short form does last of what it does once: the largest images.

    :param seconds: that are left; a minute of work is left out where they are few.
    """
    if seconds >= ML_SECONDS:
        return _turn(ML, _ML)
    return _turn(ML, {**_ML, every.UV_SYNC: ("cold", "source")})


def repeated_turns() -> list[Turn]:
    """What is repeated while there is time: the cells that aims are about."""
    return [_turn(WEB, _WEB), _turn(DATA, _DATA), _turn(ML, _ML)]


def full_turns(*, rounds: int = 5, large_rounds: int = 1) -> list[Turn]:
    """Every builder with every step of every scenario."""
    return [
        _turn(scenario, dict.fromkeys(every.ALL, STEPS), starts=2 if number == 0 else 0)
        for scenario in ALL
        for number in range(large_rounds if scenario.is_large else rounds)
    ]


def large_turns() -> list[Turn]:
    """The large scenarios by wain alone."""
    return [_turn(scenario, {every.WAIN: STEPS}) for scenario in ALL if scenario.is_large]


def _turn(scenario: Scenario, steps: Mapping[Builder, tuple[str, ...]], *, starts: int = 0) -> Turn:
    return Turn(scenario=scenario, builders={item.name: kinds for item, kinds in steps.items()}, starts=starts)


def budget_seconds() -> float:
    """How long the short form may take, as BENCH_MINUTES has it.

    :raises SystemExit: when that is no number above 0.
    """
    text = os.environ.get("BENCH_MINUTES") or str(SHORT_MINUTES)
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 24 * 60:
        raise SystemExit(f"BENCH_MINUTES is {text!r}; give minutes, such as 35")
    return minutes * 60


@dataclass(slots=True)
class Costs:
    """What passes took until now by the clock, all that is around the measurements with it."""

    steps: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Scenario, builder and step -> seconds."""
    rest: dict[tuple[str, str], float] = field(default_factory=dict)
    """Scenario and builder -> seconds beside the steps."""

    def add(self, scenario: str, builder: str, records: Mapping[str, Record], seconds: float) -> None:
        """Take note of what a builder's steps took together."""
        for step, record in records.items():
            self.steps[scenario, builder, step] = record["seconds"]
        self.rest[scenario, builder] = seconds - sum(record["seconds"] for record in records.values())

    def forget(self, scenario: str, builder: str) -> None:
        """A builder has failed: what it is in is not repeated."""
        self.rest.pop((scenario, builder), None)

    def of(self, turn: Turn) -> float | None:
        """What a turn will take; None where one of its steps was never measured."""
        name = turn.scenario.name
        total = 0.0
        for builder, steps in turn.builders.items():
            # A builder's first step is always a cold build.
            keys = [(name, builder, step) for step in dict.fromkeys(("cold", *steps))]
            if any(key not in self.steps for key in keys) or (name, builder) not in self.rest:
                return None
            total += sum(self.steps[key] for key in keys) + self.rest[name, builder]
        return total * _MARGIN


def rounds_of(turn: Turn, cells: Mapping[str, Cells]) -> int:
    """How many rounds there are of that cell of a turn that has the fewest."""
    found = cells.get(turn.scenario.name, {})
    return min(len(found.get(step, {}).get(name, ())) for name, steps in turn.builders.items() for step in steps)


def next_turn(turns: Sequence[Turn], cells: Mapping[str, Cells], costs: Costs, seconds: float) -> Turn | None:
    """Of those that end within the seconds that are left the turn with the fewest rounds, the first of several."""
    fitting = []
    for turn in turns:
        cost = costs.of(turn)
        if cost is not None and cost <= seconds and rounds_of(turn, cells) < MOST_ROUNDS:
            fitting.append(turn)
    return min(fitting, key=lambda turn: rounds_of(turn, cells), default=None)
