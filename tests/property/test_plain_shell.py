"""What the plain reader makes of a script is what the grammar makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wain.dockerfile import SourceMap, Span
from wain.plain_shell import plain_script
from wain.shell_grammar import Builder

_MAP = SourceMap([(0, 100)])
# At most one variable a word: with more, the grammar cuts words in two where spaces stand elsewhere on the line.
_WORDS = st.sampled_from(
    'install -r --no-cache-dir a.txt flask==3.0 /var/lib/apt/lists/* if done \'a b\' "c d" $HOME ${X} "in $HOME/x" '
    "$HOME/bin --dir=$X A=b ~/x pre'quoted'post 2 -y a@b^c %h x~ ,".replace("' ", "'\0")
    .replace('" ', '"\0')
    .replace("'a b'", "'a\1b'")
    .replace('"c d"', '"c\1d"')
    .replace('"in $', '"in\1$')
    .replace("\0", " ")
    .split()
).map(lambda word: word.replace("\1", " "))
_COMMANDS = st.tuples(
    st.sampled_from(["pip", "apt-get", "echo", "/usr/bin/env", "cd", "./run.sh", "python3.13"]),
    st.lists(_WORDS, max_size=5),
).map(lambda pair: " ".join([pair[0], *pair[1]]))
_SCRIPTS = st.tuples(
    _COMMANDS, st.lists(st.tuples(st.sampled_from([" && ", "&&", " || ", "; ", "  &&  "]), _COMMANDS), max_size=4)
).map(lambda pair: pair[0] + "".join(operator + command for operator, command in pair[1]))


@settings(max_examples=300, deadline=None)
@given(_SCRIPTS)
def test_the_plain_reader_agrees_with_the_grammar(text: str) -> None:
    script = plain_script(text, _MAP, Span(0, 0))
    assert script is not None
    assert repr(script.statements) == repr(Builder(text, _MAP, Span(0, 0)).script().statements)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a |", "a | b", "a &", "a & b", "a && ", "&& a", "a ;; b", "if x", "export A=b", "A=b pip", "a > b", "a 2>&1",
        "a `b`", "a $(b)", "a ${X:-y}", "a {b,c}", "a [b]", "a \\b", "a 'b", 'a "b', "[ -f x ]", "a # b", "(a)", "! a",
        "a\nb", "a $1", "a \"$(b)\"",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_the_grammars(text: str) -> None:
    assert plain_script(text, _MAP, Span(0, 0)) is None


def test_words_with_several_variables_stay_whole() -> None:
    script = plain_script("apt-get install x-$A-y-$B-z x-$A-y -y", _MAP, Span(0, 0))
    assert script is not None
    (command,) = script.statements
    assert len(command.words) == 5  # type: ignore[union-attr]
