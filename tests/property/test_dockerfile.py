"""The parser and the fixes over generated files: lossless, in agreement, idempotent, never a crash."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fix_checks import check_fix
from tests.unit.go_parser import official_rows, our_rows
from tests.unit.rules.samples import SAMPLES
from tests.unit.test_dockerfile import assert_spans
from wain.audit import audit_text
from wain.dockerfile import parse
from wain.errors import DockerfileError

_PIECES = [
    "FROM a",
    "RUN ",
    "COPY ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "ONBUILD ",
    "HEALTHCHECK ",
    'CMD ["a", "b"]',
    "pip install flask",
    "apt-get update",
    "rm -rf /root/.cache",
    "--mount=type=cache,target=/root/.cache/pip ",
    "--flag ",
    "-- ",
    "\\",
    "`",
    "\n",
    "\r\n",
    "\n\n",
    "# comment\n",
    "  # comment\n",
    "# escape=`\n",
    "# syntax=x\n",
    " ",
    "\t",
    "'",
    '"',
    "[",
    "]",
    ",",
    "=",
    "a=b",
    "$A",
    "${A:-b}",
    "&& ",
    "|| ",
    "; ",
    "| ",
    "(",
    ")",
    "x",
    "é",
    "\ufeff",
    "\x00",
    "\u3000",
]
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)
_LINES = st.lists(
    st.one_of(
        st.sampled_from([sample.text for sample in SAMPLES]),
        st.tuples(st.sampled_from(["RUN ", "ENV ", "COPY ", "ARG ", "USER ", "WORKDIR "]), _TEXTS).map("".join),
    ),
    max_size=5,
).map("".join)
_BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_BOUNDED
@given(_TEXTS)
def test_any_text_agrees_with_the_official_parser(text: str) -> None:
    # The official binding ends a text at NUL; wain's own parser does not.
    text = f"FROM a\n{text}".replace("\x00", "")
    assert our_rows(text) == official_rows(text)


@_BOUNDED
@given(st.one_of(_LINES, _TEXTS, st.text(max_size=200)))
def test_any_text_parses_losslessly_or_says_why(text: str) -> None:
    try:
        parsed = parse(text)
    except DockerfileError as error:
        assert error.message.startswith("Dockerfile:")
        return
    assert str(parsed) == text
    assert_spans(parsed)


@_BOUNDED
@given(_LINES)
def test_an_audit_never_crashes_and_points_into_the_text(text: str) -> None:
    for finding in audit_text(text).findings:
        assert 0 <= finding.location.start <= finding.location.end <= len(text)
        for one in finding.fixes:
            for edit in one.edits:
                assert 0 <= edit.start <= edit.end <= len(text)


@_BOUNDED
@given(_LINES, st.booleans())
def test_a_fix_is_idempotent_and_the_official_parser_accepts_it(text: str, unsafe: bool) -> None:
    try:
        result = check_fix(text, unsafe=unsafe)
    except DockerfileError:
        return
    before = {finding.rule for finding in audit_text(text).findings}
    assert {finding.rule for finding in result.remaining.findings} <= before
