"""The shell model: commands, words, spans through continuations."""

from __future__ import annotations

import time

import pytest

from wain.dockerfile import parse
from wain.shell import (
    AndOr,
    Background,
    Block,
    Command,
    Conditional,
    Function,
    Loop,
    Opaque,
    Pipeline,
    Script,
    nested_script,
    parse_script,
    run_script,
)


def script_of(text: str, shell: tuple[str, ...] = ("/bin/sh", "-c")) -> Script | None:
    return run_script(parse(f"FROM a\n{text}\n").instructions[1], shell)


def argv(text: str, env: dict[str, str | None] | None = None) -> list[list[str] | None]:
    script = parse_script(text, None)
    command = script.statements[0]
    assert isinstance(command, Command)
    return [word.fields(env or {}) for word in command.words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b  c", [["a"], ["b"], ["c"]]),
        ("a 'b c' \"d e\"", [["a"], ["b c"], ["d e"]]),
        ('a "x $V y"', [["a"], ["x 1 2 y"]]),
        ("a $V", [["a"], ["1", "2"]]),
        ('a "$V"', [["a"], ["1 2"]]),
        ("a $E b", [["a"], [], ["b"]]),
        ("a x$N", [["a"], None]),
        ("a ${N:-d}", [["a"], ["d"]]),
        ("a b\\ c", [["a"], ["b c"]]),
        ('a "b\\"c"', [["a"], ['b"c']]),
        ("a b'c'\"d\"e", [["a"], ["bcde"]]),
        ("a $(b)", [["a"], None]),
        ("a `b`", [["a"], None]),
        ("a ~/x", [["a"], ["/root/x"]]),
        ("a '~/x'", [["a"], ["~/x"]]),
        ("a $'b'", [["a"], ["b"]]),
        ('a ""', [["a"], [""]]),
        ("a --x=$H", [["a"], ["--x=h"]]),
        ("a é$H", [["a"], ["éh"]]),
    ],
)
def test_words(text: str, words: list[list[str] | None]) -> None:
    env: dict[str, str | None] = {"V": "1 2", "E": "", "H": "h", "HOME": "/root"}
    assert argv(text, env) == words


def test_statements() -> None:
    kinds = [
        ("a && b", AndOr),
        ("a | b", Pipeline),
        ("(a)", Block),
        ("{ a; }", Block),
        ("if a; then b; fi", Conditional),
        ("case a in b) c;; esac", Conditional),
        ("for a in b; do c; done", Loop),
        ("while a; do b; done", Loop),
        ("f() { a; }", Function),
        ("a &", Background),
        ("[ -f a ]", Opaque),
        ("A=1", Command),
        ("export A=1", Command),
        ("! a", Command),
    ]
    for text, kind in kinds:
        (statement,) = parse_script(text, None).statements
        assert isinstance(statement, kind), text


def test_spans_go_through_continuations() -> None:
    text = 'FROM a\nRUN pip install \\\n    # why\n    "flask" \\\n    é && rm -rf \\\n /x\n'
    parsed = parse(text)
    script = run_script(parsed.instructions[1])
    assert script is not None
    (statement,) = script.statements
    assert isinstance(statement, AndOr)
    assert isinstance(statement.left, Command)
    assert isinstance(statement.right, Command)
    assert [parsed.source(word.span) for word in statement.left.words] == ["pip", "install", '"flask"', "é"]
    assert [parsed.source(word.span) for word in statement.right.words] == ["rm", "-rf", "/x"]


def test_spans_inside_a_quoted_script() -> None:
    text = "FROM a\nRUN bash -c 'pip install \\\n    flask'\n"
    parsed = parse(text)
    script = run_script(parsed.instructions[1])
    assert script is not None
    (outer,) = script.statements
    assert isinstance(outer, Command)
    value = outer.words[2].literal
    assert value is not None
    inner = nested_script(script, outer.words[2], value)
    (command,) = inner.statements
    assert isinstance(command, Command)
    assert inner.is_exact
    assert [parsed.source(word.span) for word in command.words] == ["pip", "install", "flask"]


def test_forms_of_run() -> None:
    json_form = script_of('RUN ["pip", "install"]')
    assert json_form is not None
    (command,) = json_form.statements
    assert isinstance(command, Command)
    assert [word.literal for word in command.words] == ["pip", "install"]
    heredoc = script_of("RUN <<EOF\na\nb\nEOF")
    assert heredoc is not None
    assert len(heredoc.statements) == 2
    chomped = script_of("RUN <<-EOF\n\t\ta b\n\tEOF")
    assert chomped is not None
    assert chomped.text == "a b\n"
    assert script_of("RUN <<EOF\n#!/usr/bin/env python3\nx = 1\nEOF") is None
    assert script_of("RUN a", ("pwsh", "-c")) is None
    piped = script_of("RUN cat <<EOF > /x && b\nhello\nEOF")
    assert piped is not None
    (both,) = piped.statements
    assert isinstance(both, AndOr)
    assert isinstance(both.left, Command)
    assert [(one.operator, one.body) for one in both.left.redirections] == [("<<", "hello\n"), (">", None)]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5_000,
        "if " * 3_000,
        "$(" * 3_000,
        "'",
        '"',
        "a && ",
        "a | | b",
        ")",
        "\x00",
        "a <<EOF",
        "{ " * 4_000,
        "é" * 500 + "(",
    ],
)
def test_nothing_crashes_it_and_nothing_takes_long(text: str) -> None:
    started = time.process_time()
    parse_script(text, None)
    assert time.process_time() - started < 10


def test_too_long_a_text_is_opaque() -> None:
    script = parse_script("a " * 200_000, None)
    assert script.has_errors
    assert isinstance(script.statements[0], Opaque)
