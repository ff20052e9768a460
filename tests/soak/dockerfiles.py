"""Fuzz the parser, the audit and the fixes: `main(seconds)` runs until the time is over, or fails with the text."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.fix_checks import check_fix
from tests.unit.go_parser import official_rows, our_rows
from tests.unit.rules.samples import SAMPLES
from wain.audit import audit_text
from wain.dockerfile import decode, encode, parse
from wain.errors import DockerfileError
from wain.report import FORMATS, render

_CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
_TOKENS = (
    "\\\n", "\n", "\r\n", " ", "\t", "&&", "||", ";", "|", "&", "<<EOF\n", "EOF\n", "'", '"', "$(", ")", "`", "{", "}",
    "if ", "; then ", "; fi", "for i in ", "; do ", "; done", "RUN ", "FROM ", "ENV ", "ARG ", "USER ", "COPY ", "[",
    "]", "--mount=type=cache,target=", "--", "=", "#", "# wain: ignore=pip-cache x\n", "pip install ", "uv sync",
    "sudo ", "bash -c ", "rm -rf ", "${", "$A", "\x00", "\ufeff", "\udc80", "é", "\u2028", "ONBUILD ",
    "HEALTHCHECK ", "SHELL ",
)  # fmt: skip
_SLOW_SECONDS = 20


def main(seconds: float) -> None:
    """Mutate samples and real files: each parses losslessly or is refused, is audited, and mends to a fixpoint."""
    seed = random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    source = random.Random(seed)
    texts = [sample.text for sample in SAMPLES]
    if _CORPUS.is_dir():
        texts += [text for file in sorted(_CORPUS.iterdir()) if len(text := decode(file.read_bytes())) < 8_000]
    end = time.monotonic() + seconds
    # As they are first, all of them.
    for text in texts:
        check(text, unsafe=False)
        check(text, unsafe=True)
    print(f"{len(texts)} whole texts", flush=True)
    count = 0
    while time.monotonic() < end:
        text = mutate(source.choice(texts), source, texts)
        began = time.monotonic()
        try:
            check(text, unsafe=source.random() < 0.5)
        except BaseException:
            print(f"the text was {text!r}", flush=True)
            raise
        if time.monotonic() - began > _SLOW_SECONDS:
            raise AssertionError(f"took {time.monotonic() - began:.0f} s: {text!r}")
        count += 1
    print(f"{count} texts", flush=True)


def mutate(text: str, source: random.Random, texts: list[str]) -> str:
    """Some insertions, deletions, copies and splices."""
    for _ in range(source.randrange(1, 8)):
        at = source.randrange(len(text) + 1)
        to = min(len(text), at + source.randrange(12))
        kind = source.randrange(5)
        if kind == 0:
            text = text[:at] + source.choice(_TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[to:]
        elif kind == 2:
            text = text[:to] + text[at:]
        elif kind == 3:
            other = source.choice(texts)
            start = source.randrange(len(other) + 1)
            text = text[:at] + other[start : start + 80] + text[at:]
        else:
            text = text[:at] + source.choice(_TOKENS) * source.randrange(1, 30) + text[at:]
    return text[:20_000]


def check(text: str, *, unsafe: bool) -> None:
    """All that holds of any text."""
    report = audit_text(text)
    try:
        parsed = parse(text)
    except DockerfileError as error:
        assert error.message.startswith("Dockerfile:")
        assert [finding.rule for finding in report.findings] == ["dockerfile-syntax"]
        return
    assert str(parsed) == text
    assert decode(encode(text)) == text
    if "\x00" not in text and not any(0xD800 <= ord(char) < 0xE000 for char in text):
        ours, official = our_rows(text), official_rows(text)
        # The Go parser reads flags byte by byte and garbles what is not ASCII; wain keeps the characters.
        garbled = any(not flag.text.isascii() for one in parsed.instructions for flag in one.flags)
        # Newer builders read modifiers in braces that the binding's release does not, and "check" as a directive.
        if "${" not in text and "check" not in text and not garbled:
            assert ours == official
    result = check_fix(text, unsafe=unsafe)
    before = {finding.rule for finding in report.findings}
    assert {finding.rule for finding in result.remaining.findings} <= before
    for form in FORMATS:
        render([report, result.remaining], form=form)
