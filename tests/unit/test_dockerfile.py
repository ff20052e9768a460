"""The parser: lossless, and in agreement with the official Go parser."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.go_parser import official_rows, our_rows
from tests.unit.rules.samples import SAMPLES
from wain.dockerfile import Dockerfile, decode, encode, parse
from wain.errors import DockerfileError
from wain.mounts import mounts

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

TEXTS = [
    "FROM a\nCOPY --from x y z\n",
    "FROM a\nRUN \u2028--mount=type=cache,target=/ /\nRUN --mount=type=cache,target=/ \u00a0--mount=x y\n",
    "FROM a\nCOPY --from='x y' y z\nCOPY -- --a b\n",
    'FROM a\nCMD ["a"] foo\nfoo bar baz\nONBUILD\nONBUILD ONBUILD RUN x\nHEALTHCHECK NONE\nENV\nLABEL\nRUN\n',
    "FROM a\nRUN a \\\n # c\n\n  b \\\\\n",
    "\ufeffFROM a\r\nRUN a \\\r\n b\r\n\\\n\nRUN x  \n",
    "\\\n\n",
    "# escape=x\nFROM a",
    "# escape=`\n# escape=`\nFROM a",
    "#escape=`\r\nFROM a\r\nRUN a `\r\n b\r\nENV p=c:\\\\ q=a` b\r\n",
    "# syntax=docker/dockerfile:1\n# escape=`\n\n# escape=x\nFROM a\n",
    "\n# escape=`\nFROM a\nRUN x \\\n y\n",
    "FROM a\nENV a\n",
    "FROM a\nENV a=b c\n",
    "FROM a\nRUN cat <<EOF\n",
    "FROM a\nRUN <<'E O' cat\nE O\nRUN 3<<-\"x\"y\n\txy\n",
    "FROM a\nRUN <<A cat <<B\n1\nA\n2\nB\nCOPY <<x <<y /d/\n1\nx\ny\n",
    "FROM a\nRUN a <<<x <<\\E\r\nf\r\nE\r\n",
    'FROM a\nCOPY ["<<E", "b"]\nRUN echo "<<E"\nRUN echo $((1<<2))\n',
    "FROM a  b\tc  \nEXPOSE  80   90\nUSER  a b \nARG a b=c 'd e'=f\nVOLUME a b\nSTOPSIGNAL a\nMAINTAINER x y\n",
    'FROM a\nVOLUME ["a\\ud800", "b\\n\\u00e9"]\nSHELL a b\nADD "a b" c\nENV a  b  c\nENV a b=c\n',
    'FROM a\nHEALTHCHECK --interval=1s CMD ["x"]\nHEALTHCHECK CMD\nHEALTHCHECK  CMD   x\n',
    'from a\nrun --mount=type=cache,target="/x y" --network=none pip install\nADD --chown=a\\ b c d\n',
    'FROM a\nENV a="b c" d=\'e f\' g=h\\ i \\\n  j=k\nLABEL a="b\\\n c" d=""\nENV x=\\\n\n',
    'FROM a\nRUN [ "a" , "b" ]\nRUN [a]\nRUN ["a",]\nRUN []\nCOPY [] x\nRUN [NaN]\nRUN ["a" "b"]\n',
    'FROM a\nRUN [1,"a"]\n',
    "FROM a\nRUN [null]\n",
    "FROM a\nRUN a\\",
    "FROM a\nRUN a \\\n",
    "FROM a\nRUN a \\ \t\n  b\n",
    "FROM a\nRUN a\n\t# indented\n   \nRUN b\n",
    "FROM a\n\x0bRUN b\n\x85RUN c\n\x1cRUN d\n\u3000RUN e\n",
    "FROM a\nRUN \u2028--mount=type=cache,target=/x e\nRUN --network=none \u3000--mount=x y\nCOPY \xa0--from=x a b\n",
    "FROM a\nRUN é \\\n ü && “x”\nENV é=ü\n",
    "",
    "# only\n",
    "\n\n",
    "FROM a\nRUN " + "x" * 65_600 + "\n",
    "FROM a\nRUN " + "x" * 65_000 + "\n",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_agrees_with_the_official_parser(text: str) -> None:
    assert our_rows(text) == official_rows(text)


def test_agrees_with_the_official_parser_on_the_samples_of_all_rules() -> None:
    for sample in SAMPLES:
        assert our_rows(sample.text) == official_rows(sample.text) or "ONBUILD" in sample.text


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real Dockerfiles is not here")
def test_agrees_with_the_official_parser_on_the_corpus() -> None:
    files = sorted(CORPUS.iterdir())
    assert len(files) >= 400
    for file in files:
        text = file.read_bytes().decode("utf-8", "replace")
        assert our_rows(text) == official_rows(text), file.name


def test_a_thousand_files_parse_in_two_seconds() -> None:
    text = '# syntax=docker/dockerfile:1\nFROM python:3.13-slim AS base\nARG A=1\nENV B=2 C="3 4"\n' + "".join(
        f"COPY --chown=1:1 a{n} /b{n}\nRUN --mount=type=cache,target=/root/.cache/pip pip install \\\n    a{n} \\\n"
        "    # why\n    && rm -rf /x\n"
        for n in range(15)
    )
    started = time.process_time()
    for _ in range(1_000):
        parse(text)
    assert time.process_time() - started < 4  # twice the budget: CI machines are slow


def test_everything_has_its_place() -> None:
    text = (
        "# syntax=docker/dockerfile:1\n"
        "ARG V=3\n"
        "FROM --platform=$BUILDPLATFORM python:$V AS Base\n"
        "# about run\n"
        "RUN --mount=type=cache,target=/c a \\\n"
        "    # between\n"
        "    b\n"
        "COPY --from=base a b /c/\n"
        "ENV X=1 Y='2 3'\n"
        "RUN <<EOF\nhello\nEOF\n"
    )
    parsed = parse(text, name="D")
    assert str(parsed) == text
    assert [(one.name, one.value) for one in parsed.directives] == [("syntax", "docker/dockerfile:1")]
    run = parsed.instructions[2]
    assert (run.keyword, run.line, run.end_line) == ("RUN", 5, 7)
    assert parsed.source(run.span) == "RUN --mount=type=cache,target=/c a \\\n    # between\n    b"
    assert [comment.text for comment in run.comments] == ["about run", "between"]
    assert parsed.source(run.flags[0].span) == "--mount=type=cache,target=/c"
    assert run.words[0].value == "a     b"
    assert parsed.source(run.words[0].span) == "a \\\n    # between\n    b"
    copy = parsed.instructions[3]
    assert [parsed.source(word.span) for word in copy.words] == ["a", "b", "/c/"]
    assert copy.flag("from") == "base"
    env = parsed.instructions[4]
    assert [(parsed.source(key.span), parsed.source(value.span)) for key, value in env.pairs()] == [
        ("X", "1"),
        ("Y", "'2 3'"),
    ]
    heredoc = parsed.instructions[5].heredocs[0]
    assert (heredoc.name, heredoc.content, parsed.source(heredoc.span)) == ("EOF", "hello\n", "hello\n")
    assert parsed.source(parsed.instructions[5].span) == "RUN <<EOF\nhello\nEOF"
    (stage,) = parsed.stages
    assert (stage.name, stage.image, stage.platform, stage.index) == ("base", "python:$V", "$BUILDPLATFORM", 0)
    assert [one.keyword for one in parsed.preamble] == ["ARG"]
    assert parsed.position(text.index("hello")) == (11, 1)


def test_the_spans_of_words_hold_what_they_say() -> None:
    for sample in SAMPLES:
        try:
            parsed = parse(sample.text)
        except DockerfileError:
            continue
        assert_spans(parsed)


def assert_spans(parsed: Dockerfile) -> None:
    """Instructions lie in order without overlap, and every flag and word inside its instruction."""
    end = 0
    for instruction in parsed.instructions:
        assert end <= instruction.span.start <= instruction.span.end <= len(parsed.text)
        end = instruction.span.end
        assert parsed.position(instruction.span.start)[0] == instruction.line
        for part in (*instruction.flags, *instruction.words, *instruction.heredocs):
            assert part.span in instruction.span
        for word in instruction.words:
            if not instruction.is_json and "\n" not in parsed.source(word.span):
                assert parsed.source(word.span) == word.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nENV b\n", "D:2: ENV needs a name and a value"),
        ("FROM a\n\nRUN [1]\n", "D:3: a JSON array here may hold strings only"),
        ("FROM a\nRUN x <<E\ny\n", "D:2: the here-document 'E' does not end"),
        ("# escape=x\n", "D:1: 'x' cannot be the escape character"),
        ("", "D:1: the file has no instructions"),
    ],
)
def test_an_error_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        parse(text, name="D")
    assert raised.value.message == message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("RUN x\n", "RUN stands before the first FROM"),
        ("FROM a\nFOO x\n", "unknown instruction FOO"),
        ("FROM a b\n", "FROM takes an image, or an image AS a name"),
        ("FROM a AS 1x\n", "'1x' cannot be a stage's name"),
        ("FROM a\nCOPY --bar=1 a b\n", "COPY has no flag --bar"),
        ("FROM a\nONBUILD FROM b\n", "ONBUILD cannot hold FROM"),
        ("FROM a\nSHELL bash\n", 'SHELL takes the JSON form: SHELL ["program", "argument"]'),
        ("FROM a\nUSER\n", "USER needs an argument"),
    ],
)
def test_what_parses_but_cannot_be_built(text: str, problem: str) -> None:
    parsed = parse(text)
    assert problem in [one.message for one in parsed.problems()]
    with pytest.raises(DockerfileError):
        parsed.validate()


def test_bytes_that_are_no_utf8_come_back() -> None:
    data = b"FROM a\nRUN echo \xff\xfe\n"
    assert encode(str(parse(decode(data)))) == data


def test_mounts() -> None:
    (instruction,) = parse(
        "RUN --mount=type=cache,dst=/a,uid=1,id=x,sharing=locked,ro --mount=target=/b,from=s x"
    ).instructions
    cache, bind = mounts(instruction)
    assert (cache.kind, cache.target, cache.uid, cache.id, cache.sharing, cache.readonly) == (
        "cache",
        "/a",
        "1",
        "x",
        "locked",
        True,
    )
    assert (bind.kind, bind.target, bind.from_, bind.readonly, bind.is_known) == ("bind", "/b", "s", True, True)
    (broken,) = parse("RUN --mount=type x").instructions
    with pytest.raises(DockerfileError):
        mounts(broken)
