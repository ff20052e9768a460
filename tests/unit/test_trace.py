"""Following a Dockerfile: users, homes, environments, wrappers, mounts, stages that ship."""

from __future__ import annotations

import pytest

from wain.dockerfile import parse
from wain.follow import follow
from wain.trace import Trace
from wain.walk import Call


def trace(text: str) -> Trace:
    return follow(parse(text))


def calls(run: str, *, before: str = "") -> list[Call]:
    (found,) = list(trace(f"FROM a\n{before}RUN {run}\n").runs())[-1:]
    return found.calls


def test_users_and_homes() -> None:
    text = (
        "FROM a\nRUN useradd -m -d /srv/a -u 1234 a && adduser --uid 77 b\nUSER a\nRUN x\nUSER 77\nRUN x\n"
        "USER 5:6\nRUN x\nUSER nobody\nRUN x\nENV HOME=/h\nRUN x\nUSER root\nRUN x\n"
    )
    runs = list(trace(text).runs())[1:]
    assert [(run.user.name, run.user.uid, run.calls[0].home) for run in runs] == [
        ("a", "1234", "/srv/a"),
        ("b", "77", "/home/b"),
        ("5", "5", "/"),
        ("nobody", "65534", "/nonexistent"),
        ("nobody", "65534", "/h"),
        ("root", "0", "/h"),
    ]


@pytest.mark.parametrize(
    ("run", "argv", "wrappers"),
    [
        ("sudo -H pip install x", ["pip", "install", "x"], ("sudo",)),
        ("sudo -u app -- pip x", ["pip", "x"], ("sudo",)),
        ("env -i A=1 pip x", ["pip", "x"], ("env",)),
        ("env -u A pip x", ["pip", "x"], ("env",)),
        ("timeout -k 5 60 pip x", ["pip", "x"], ("timeout",)),
        ("nice -n 5 nohup pip x", ["pip", "x"], ("nice", "nohup")),
        ("xargs -r -n 1 pip x", ["pip", "x"], ("xargs",)),
        ("bash -euxo pipefail -c 'pip x'", ["pip", "x"], ()),
        ("bash -ceuo pipefail 'pip x'", ["pip", "x"], ()),
        ("sudo sh -c 'pip x'", ["pip", "x"], ("sudo",)),
        ("su - app -c 'pip x'", ["pip", "x"], ("su",)),
        ("gosu app pip x", ["pip", "x"], ("gosu",)),
        ("conda run -n e pip x", ["pip", "x"], ("conda",)),
        ("poetry run pip x", ["pip", "x"], ("poetry",)),
    ],
)
def test_wrappers_are_taken_off(run: str, argv: list[str], wrappers: tuple[str, ...]) -> None:
    (call,) = calls(run)
    assert list(call.argv) == argv
    assert call.wrappers == wrappers


def test_the_environment_of_a_command() -> None:
    found = calls("A=1; export B=2; C=3 x; y; (D=4; z); unset A; v", before="ENV E=5\nARG F=6\nARG G\n")
    by_name = {call.program: call.env for call in found}
    assert by_name["x"]["C"] == "3"
    assert "C" not in by_name["y"]
    assert (by_name["y"]["A"], by_name["y"]["B"], by_name["y"]["E"], by_name["y"]["F"]) == ("1", "2", "5", "6")
    assert by_name["y"]["G"] is None
    assert by_name["z"]["D"] == "4"
    assert "D" not in by_name["v"]
    assert "A" not in by_name["v"]


def test_sudo_takes_the_environment_away_unless_told_otherwise() -> None:
    before = "ENV PIP_NO_CACHE_DIR=1\nUSER app\n"
    (plain,) = calls("sudo pip x", before=before)
    assert "PIP_NO_CACHE_DIR" not in plain.env
    assert plain.home == "/root"
    (kept,) = calls("sudo -E pip x", before=before)
    assert kept.env["PIP_NO_CACHE_DIR"] == "1"
    (given,) = calls("sudo PIP_NO_CACHE_DIR=1 pip x", before=before)
    assert given.env["PIP_NO_CACHE_DIR"] == "1"


def test_folders() -> None:
    found = calls("cd sub && a; (cd /x; b); c; cd $UNKNOWN && d", before="WORKDIR /w\n")
    assert [(call.program, call.cwd) for call in found if call.program != "cd"] == [
        ("a", "/w/sub"),
        ("b", "/x"),
        ("c", "/w/sub"),
        ("d", None),
    ]


def test_loops_functions_and_conditions() -> None:
    assert [call.argv[1] for call in calls("for p in a b; do pip $p; done")] == ["a", "b"]
    assert [call.program for call in calls("f() { a; }; b; f")] == ["b", "a"]
    found = calls("if a; then b; else c; fi; d || e; [ -f x ] && g")
    assert [call.program for call in found] == ["a", "b", "c", "d", "e", "g"]
    assert [len(call.branch) for call in found] == [0, 1, 1, 0, 1, 1]


def test_a_variable_that_branches_set_differently_is_unknown() -> None:
    found = calls("if a; then X=1; else X=2; fi; b $X; Y=1; c $Y")
    assert next(call.argv for call in found if call.program == "b") == ("b", None)
    assert next(call.argv for call in found if call.program == "c") == ("c", "1")


def test_which_stages_ship() -> None:
    text = (
        "FROM a AS base\nRUN x\nFROM base AS build\nRUN x\nFROM b AS lint\nRUN x\n"
        "FROM base AS final\nCOPY --from=build /opt /opt\nCOPY --from=0 /etc/x /x\n"
    )
    followed = trace(text)
    assert [(one.stage.name, one.ships) for one in followed.stages] == [
        ("base", "final"),
        ("build", "discarded"),
        ("lint", "target"),
        ("final", "final"),
    ]
    build = followed.stages[1]
    assert build.keeps("/opt/venv")
    assert not build.keeps("/root/.cache/pip")


def test_mounts_are_expanded() -> None:
    text = "FROM a\nARG U=5\nENV C=/c\nRUN --mount=type=cache,target=$C/pip,uid=$U,id=x-$U pip install x\n"
    (run,) = trace(text).runs()
    (mounted,) = run.mounts
    assert (mounted.target, mounted.uid, mounted.id, mounted.kind) == ("/c/pip", "5", "x-5", "cache")
    assert run.mount_over("/c/pip/http") is mounted
    assert run.mount_over("/c") is None


@pytest.mark.parametrize(
    "text",
    [
        "FROM ${A:?no}\nRUN x\n",
        "FROM a\nENV A=${B\nRUN x\n",
        "FROM a\nRUN --mount=type x\n",
        "FROM a\nCOPY a\nCOPY --from=9 a b\nUSER\nRUN\nSHELL []\nRUN x\n",
        "FROM a\nRUN f() { f; }; f\n",
        "FROM a\nRUN " + "sh -c '" * 40 + "\n",
        "FROM a\nRUN " + "for a in b c; do " * 12 + "x" + "; done" * 12 + "\n",
        "FROM a\nRUN sudo\nRUN env\nRUN timeout\nRUN su -c\nRUN xargs\nRUN cd\nRUN export\nRUN trap\nRUN eval\n",
    ],
)
def test_nothing_crashes_it(text: str) -> None:
    for run in trace(text).runs():
        assert len(run.calls) < 10_000


def test_a_long_chain_is_followed_to_its_end() -> None:
    found = calls(" && ".join(f"a{number}" for number in range(3_000)))
    assert [call.program for call in found][-1] == "a2999"


def test_values_that_double_are_bounded() -> None:
    followed = trace("FROM a\nENV A=xxxx\n" + "ENV A=$A$A\n" * 60)
    assert "more than 1000000 characters" in followed.problems[0][1]
    found = calls("A=xxxx; " + "A=$A$A; " * 60 + "x $A")
    assert found[-1].argv == ("x", None)
