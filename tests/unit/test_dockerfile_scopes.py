"""Substitution with its modifiers, and the scopes of ARG and ENV."""

from __future__ import annotations

import pytest

from wain.dockerfile import parse
from wain.errors import DockerfileError
from wain.scopes import Scope, global_scope, parent_stage, platform_args, source_stage, stage_scope
from wain.substitution import expand, expand_words, split_words, unquote_heredoc

ENV = {"A": "x", "E": "", "P": "a/b/c.tar.gz", "U": None, "S": "b c"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "x"),
        ("${A}y", "xy"),
        ("$Ay", ""),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ('"$A b"', "x b"),
        ("${N:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${N-d}", "d"),
        ("${A:+d}", "d"),
        ("${E:+d}", ""),
        ("${E+d}", "d"),
        ("${N:-$A}", "x"),
        ("${N:-${E:-$A}}", "x"),
        ("${P#*/}", "b/c.tar.gz"),
        ("${P##*/}", "c.tar.gz"),
        ("${P%.*}", "a/b/c.tar"),
        ("${P%%.*}", "a/b/c"),
        ("${P/b/z}", "a/z/c.tar.gz"),
        ("${P//[.]/_}", "a/b/c.tar.gz"),
        ("${P//./_}", "a/b/c_tar_gz"),
        ("a$", "a$"),
        ("$1x", "x"),
        ("${A?no}", "x"),
        ("a\\ b", "a b"),
        ('"a\\b"', "a\\b"),
        ("$U", None),
        ("${U:-d}", None),
        ("${N:-$U}", None),
    ],
)
def test_expand(text: str, value: str | None) -> None:
    assert expand(text, ENV).value == value


def test_what_is_not_set_is_named() -> None:
    assert expand("$N $A ${M:-x}", ENV).unset == {"N", "M"}


@pytest.mark.parametrize("text", ["${A", "'a", '"a', "${}", "${A!b}", "${N:?why}", "${N?}", "${:A}", "${A:#x}"])
def test_what_cannot_be_expanded(text: str) -> None:
    with pytest.raises(DockerfileError):
        expand(text, ENV)


def test_words() -> None:
    assert expand_words("a  '$A b' $S", ENV) == ["a", "$A b", "b", "c"]
    assert expand_words("$U", ENV) is None
    assert split_words('a \'b c\' "d\\"e" $X') == ["a", "'b c'", '"d\\"e"', "$X"]
    assert split_words("a 'b") == []
    assert unquote_heredoc("'E F'") == ("E F", False)
    assert unquote_heredoc("EOF") == ("EOF", True)
    assert unquote_heredoc("a b") is None


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(DockerfileError):
        expand("${A:-" * 10_000, {})


def test_patterns_take_no_exponential_time() -> None:
    value = expand("${X%" + "*a" * 12 + "b}", {"X": "a" * 300}).value
    assert value == "a" * 300


def test_scopes() -> None:
    text = (
        "ARG V=1\nARG W=$V.2\nFROM base:$W AS one\nARG V\nARG N\nARG TARGETARCH\nENV E=$V F=$E\nENV G=$E V=9\n"
        "ARG V=5\nFROM one\nARG Z=${G}z\nENV H=$V$Z\n"
    )
    parsed = parse(text)
    first = global_scope(parsed, build_args={"N": "n"}, platform=platform_args("linux/arm64/v8"))
    assert first.expand(parsed.stages[0].image).value == "base:1.2"
    one = stage_scope(first, None, base_env={"PATH": "/bin"})
    for instruction in parsed.stages[0].instructions:
        one.apply(instruction)
    assert one.env == {"PATH": "/bin", "E": "1", "F": "", "G": "1", "V": "9"}
    assert one.args["N"] == "n"
    assert one.args["TARGETARCH"] == "arm64"
    assert one.variables()["V"] == "9"
    two = stage_scope(first, one)
    for instruction in parsed.stages[1].instructions:
        two.apply(instruction)
    assert two.env["H"] == "91z"
    stages = parsed.stages
    assert parent_stage(stages, stages[1], "ONE") is stages[0]
    assert source_stage(stages, stages[1], "0") is stages[0]
    assert source_stage(stages, stages[1], "1") is None


def test_an_arg_without_value_is_unknown_only_where_asked() -> None:
    parsed = parse("FROM a\nARG X\nENV Y=$X\n")
    for unknown, value in ((True, None), (False, "")):
        scope = Scope(unknown_args=unknown)
        for instruction in parsed.instructions:
            scope.apply(instruction)
        assert scope.env["Y"] == value


def test_an_error_names_the_line() -> None:
    parsed = parse('FROM a\n\nENV X="${Y:?set Y}"\n', name="D")
    with pytest.raises(DockerfileError) as raised:
        Scope(name="D").apply(parsed.instructions[1])
    assert raised.value.message == "D:3: Y: set Y"
