"""Every rule has its example, its samples, its fix and its page; every sample gets the rules that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.go_parser import official_rows
from tests.unit.rules.samples import SAMPLES, Sample
from wain.audit import AuditSettings, audit_text
from wain.errors import DockerfileError
from wain.findings import Severity
from wain.fix import fix
from wain.rules import BY_ID, RULES, Rule
from wain.rules.pages import pages

# Rules whose findings need a decision that no edit can take.
WITHOUT_FIX = {
    "build-tools",
    "dockerfile-syntax",
    "layer-budget",
    "secret-env",
    "secret-file",
    "secret-url",
    "torch-cuda",
    "unpinned-base",
}


def rules_of(text: str) -> set[str]:
    return {finding.rule for finding in audit_text(text).findings}


def test_there_are_enough_samples() -> None:
    assert len(SAMPLES) >= 250
    assert len({sample.text for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.text.strip().split("\n", 1)[-1][:60] for sample in SAMPLES])
def test_a_sample_gets_the_rules_that_it_names(sample: Sample) -> None:
    assert rules_of(sample.text) == sample.rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_has_samples_for_and_against(rule: Rule) -> None:
    assert any(rule.id in sample.rules for sample in SAMPLES) or rule.id == "layer-budget"
    assert rule.id in rules_of(rule.example.bad)
    for text in (rule.example.fixed, *rule.example.good):
        assert rule.id not in rules_of(text)
    for words in (rule.title, rule.cost, rule.why, rule.mend):
        assert words
        assert words == words.strip()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_fix_of_a_rule_makes_its_bad_example_the_fixed_one(rule: Rule) -> None:
    settings = AuditSettings(select=(rule.id,))
    result = fix(rule.example.bad, unsafe=True, settings=settings)
    if rule.id in WITHOUT_FIX:
        assert result.after == rule.example.bad
    else:
        assert result.after == rule.example.fixed
        assert not result.refused


@pytest.mark.parametrize(("prefer", "unsafe"), [("auto", False), ("mount", True), ("flag", True), ("env", False)])
def test_fixing_every_sample_leaves_nothing_that_can_be_fixed_and_breaks_nothing(prefer: str, unsafe: bool) -> None:
    from wain.rules import Options

    settings = AuditSettings(options=Options(prefer=prefer))
    for sample in SAMPLES:
        try:
            result = fix(sample.text, unsafe=unsafe, settings=settings)
        except DockerfileError:
            assert sample.rules == {"dockerfile-syntax"}
            continue
        again = fix(result.after, unsafe=unsafe, settings=settings)
        assert again.after == result.after, sample.text
        assert (official_rows(result.after) is None) == (official_rows(sample.text) is None), result.after
        assert {one.rule for one in result.remaining.findings} <= sample.rules, (sample.text, result.after)
        refused = {finding.rule for finding, _ in result.refused}
        for finding in result.remaining.findings:
            for one in finding.fixes[:1]:
                assert not one.is_safe or finding.rule in refused, (sample.text, result.after, finding)


def test_pip_and_uv_caches_are_always_mended_where_the_command_has_a_place() -> None:
    for sample in SAMPLES:
        if sample.rules == {"pip-cache"}:
            after = fix(sample.text).after
            if "pip-cache" in rules_of(after):
                assert any(
                    mark in sample.text
                    for mark in ("eval", "--cache-dir /c", "$p; done", "&\n", '["/bin/bash"', "$V", "${V}", "<<")
                ), sample.text


def test_ids_and_severities() -> None:
    assert list(BY_ID) == sorted(BY_ID)
    assert {rule.severity for rule in RULES} == set(Severity)


def test_the_pages_are_those_that_the_rules_make() -> None:
    """Write them anew with `python -m wain.rules.pages docs/rules`."""
    folder = Path(__file__).resolve().parents[3] / "docs" / "rules"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == pages()
