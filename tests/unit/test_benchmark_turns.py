"""What is measured in the time that is left, what is written for each builder, and how a step's seconds are split."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from benchmarks import builders, stage_clock, stages, turns
from benchmarks.scenarios import DATA, ML, WEB, write_project
from benchmarks.turns import Cells, Costs, Record, Turn


def _turn(scenario: str, *, steps: tuple[str, ...] = ("cold", "bump")) -> Turn:
    known = {item.name: item for item in (WEB, DATA, ML)}
    return Turn(scenario=known[scenario], builders={"wain": steps, "other": ("cold",)})


def _cells(rounds: int) -> Cells:
    records: list[Record] = [{"seconds": 1.0}] * rounds
    return {"cold": {"wain": records, "other": records}, "bump": {"wain": records}}


def _costs(**seconds: float) -> Costs:
    """Each cell takes so long, and each builder as long again beside its steps."""
    costs = Costs()
    for scenario, each in seconds.items():
        costs.add(scenario, "wain", {"cold": {"seconds": each}, "bump": {"seconds": each}}, 3 * each)
        costs.add(scenario, "other", {"cold": {"seconds": each}}, 2 * each)
    return costs


def test_a_turn_costs_what_its_steps_took_and_what_is_around_them() -> None:
    costs = _costs(web=10.0)
    assert costs.of(_turn("web")) == pytest.approx(50 * 1.1)
    assert costs.of(_turn("web", steps=("bump",))) == pytest.approx(50 * 1.1), "a cold build comes before"
    assert costs.of(_turn("web", steps=("cold",))) == pytest.approx(40 * 1.1)
    assert costs.of(_turn("web", steps=("cold", "fresh"))) is None
    assert costs.of(_turn("ml")) is None


def test_the_turn_with_the_fewest_rounds_comes_next_if_it_fits() -> None:
    all_turns = [_turn("web"), _turn("data"), _turn("ml")]
    costs = _costs(web=1.0, data=10.0, ml=100.0)

    def chosen(web: int, data: int, ml: int, seconds: float) -> str | None:
        cells = {"web": _cells(web), "data": _cells(data), "ml": _cells(ml)}
        found = turns.next_turn(all_turns, cells, costs, seconds)
        return found.scenario.name if found else None

    assert chosen(1, 1, 1, 1000) == "web"
    assert chosen(2, 1, 1, 1000) == "data"
    assert chosen(2, 2, 1, 1000) == "ml"
    assert chosen(2, 2, 1, 500) == "web", "ml does not fit"
    assert chosen(3, 2, 1, 54) == "web", "nor does data"
    assert chosen(2, 2, 1, 5) is None
    assert chosen(5, 5, 5, 1e9) is None
    assert turns.next_turn(all_turns, {}, Costs(), 1e9) is None


def test_what_has_failed_is_not_repeated() -> None:
    costs = _costs(web=1.0, data=1.0)
    cells = {"web": _cells(1), "data": _cells(2)}
    costs.forget("web", "other")
    chosen = turns.next_turn([_turn("web"), _turn("data")], cells, costs, 1e9)
    assert chosen is not None and chosen.scenario.name == "data"


def test_what_is_repeated_is_measured_before() -> None:
    first: dict[tuple[str, str], set[str]] = {}
    for turn in (*turns.short_turns(), turns.last_turn(1e9)):
        for name, steps in turn.builders.items():
            first.setdefault((turn.scenario.name, name), set()).update(steps)
    for turn in turns.repeated_turns():
        for name, steps in turn.builders.items():
            assert set(steps) <= first[turn.scenario.name, name]
    named = {builder.name for builder in builders.ALL}
    assert {name for _, name in first} == named == {name for scenario, name in first if scenario == "web"}
    for scenario in ("web", "data"):
        assert {"cold", "source", "bump"} <= first[scenario, builders.UV_PIP.name]
        assert first[scenario, builders.UV_SYNC.name] == set(turns.STEPS)


def test_a_minute_of_the_largest_images_is_left_out_where_time_is_short() -> None:
    whole, short = turns.last_turn(1e9).builders, turns.last_turn(100).builders
    assert whole[builders.UV_SYNC.name] == ("cold", "source", "bump")
    assert short == {**whole, builders.UV_SYNC.name: ("cold", "source")}


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_minutes_have_to_be_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_MINUTES", text)
    with pytest.raises(SystemExit, match="BENCH_MINUTES"):
        turns.budget_seconds()


def test_the_short_form_ends_in_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_MINUTES", raising=False)
    assert turns.budget_seconds() < 900
    monkeypatch.setenv("BENCH_MINUTES", "35")
    assert turns.budget_seconds() == 2100


def test_a_project_says_its_pins_twice(tmp_path: Path) -> None:
    pins = ("flask==3.1.0", "torch==2.13.0+cpu")
    write_project(ML, pins, tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert (
        tuple(project["project"]["dependencies"]) == pins == tuple((tmp_path / "requirements.txt").read_text().split())
    )
    assert project["project"]["requires-python"] == "==3.11.*"
    assert "build-system" not in project and project["tool"]["wain"]["ports"] == [8000]


def test_only_bytecode_is_set_apart_and_each_builder_has_its_own_lock() -> None:
    assert [item.name for item in builders.ALL if item.lock == "uv.lock"] == [
        builders.UV_SYNC.name, builders.UV_COMPILE.name, builders.UV_INLINE.name
    ]  # fmt: skip
    assert builders.WAIN.locks_layers and not builders.UV_SYNC.locks_layers and not builders.UV_PIP.lock


def test_overlapping_waits_count_once() -> None:
    assert stages.covered([]) == 0
    assert stages.covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


def test_a_profile_adds_up_and_loading_is_no_waiting() -> None:
    found = {
        "first": 10.1,
        "stages": {"imports": 0.3, "lock": 0.1},
        "imports": [[10.1, 10.4]],
        "awaited": [[10.3, 10.5], [10.45, 10.6]],
    }
    profile = stages.profile_of(found, started=10.0, written=10.7, ended=10.75)
    assert profile["seconds"] == pytest.approx(0.1 + 0.3 + 0.1 + 0.05)
    assert profile["requests"] == 2 and profile["awaited"] == pytest.approx(0.2)
    assert stages.floor_of(profile) == pytest.approx({"start of Python": 0.1, "imports": 0.3, "answers": 0.2})
    assert stages.middle([{"seconds": 3}, {"seconds": 1}, {"seconds": 2}])["seconds"] == 2


def test_a_stage_takes_its_time_from_the_one_that_it_is_in() -> None:
    clock = stage_clock.Clock()
    inner = clock.timed(lambda: time.sleep(0.03), "inner")

    def work() -> str:
        time.sleep(0.02)
        inner()
        return "done"

    assert clock.timed(work, "outer")() == "done"
    clock.stop()
    assert 0.03 <= clock.seconds["inner"] < 0.2 and 0.02 <= clock.seconds["outer"] < 0.2
    clock.awaiting(work)()
    [(began, ended)] = clock.awaited
    assert ended - began >= 0.05


def test_every_function_of_the_stages_is_there(tmp_path: Path) -> None:
    for place in (stage_clock.ANSWER, *(place for places in stage_clock.STAGES.values() for place in places)):
        module, _, path = place.partition(":")
        owner: object = importlib.import_module(module)
        for name in path.split("."):
            owner = vars(owner)[name]
        assert callable(owner) or isinstance(owner, classmethod), place


def test_a_command_is_timed_from_its_start_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    (tmp_path / "requirements.txt").write_text("")
    result = tmp_path / "stages.json"
    words = ["build", str(tmp_path), "--base", f"oci:{tmp_path}/none", "-q", "--cache-dir", str(tmp_path / "store")]
    began = time.monotonic()
    subprocess.run([sys.executable, "-I", stage_clock.__file__, result, *words], check=True, capture_output=True)
    ended = time.monotonic()
    told = json.loads(result.read_text())
    found = json.loads(told["found"])
    assert found["code"] > 2, "there is no such base"
    assert began < found["first"] < found["ended"] < told["written"] < ended
    assert sum(found["stages"].values()) == pytest.approx(found["ended"] - found["first"])
    assert found["stages"]["imports"] > 0.02 and found["stages"]["project and settings"] > 0
    loaded = sum(end - start for start, end in found["imports"])
    assert found["stages"]["imports"] <= loaded + 1e-6


def test_a_run_that_is_ended_twice_still_removes_what_it_made(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks.__main__ import end_in_order\n"
        "folder = Path(sys.argv[1])\n"
        "end_in_order()\n"
        "folder.mkdir()\n"
        "try:\n"
        "    print('made', flush=True)\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    print('removing', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    folder.rmdir()\n"
    )
    folder = tmp_path / "made"
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None and run.stderr is not None
            assert run.stdout.readline() == "made\n" and folder.exists()
            run.send_signal(signal.SIGTERM)
            assert run.stdout.readline() == "removing\n"
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                run.send_signal(number)
            assert run.wait(30) == 128 + signal.SIGTERM
            assert run.stderr.read().count("ends: what was started is ended and removed") == 1
        finally:
            run.kill()
    assert not folder.exists()
