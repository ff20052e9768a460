"""What the documents say is so: the tree, the dependencies, the commands of the README."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from wain.commands.main import VERBS, _global_flags, _Parents

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
README = (ROOT / "README.md").read_text()


def _modules() -> list[str]:
    return sorted(path.stem for path in (ROOT / "src/wain").glob("*.py") if not path.stem.startswith("__"))


def test_the_tree_names_every_module() -> None:
    told = set(re.findall(r"([a-z_0-9]+)\.py\b", ARCHITECTURE))
    assert set(_modules()) <= told, sorted(set(_modules()) - told)
    gone = {name for name in told if not list((ROOT / "src/wain").rglob(f"{name}.py"))}
    assert not gone, sorted(gone)


def test_every_module_has_its_place_among_the_layers() -> None:
    placed = set(re.findall(r"[a-z_0-9]+", (ROOT / ".importlinter").read_text()))
    assert set(_modules()) <= placed, sorted(set(_modules()) - placed)


def test_every_dependency_has_a_reason() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.match(r"[a-z0-9-]+", text) for text in document["project"]["dependencies"]]
    for match in names:
        assert match and f"`{match[0]}`" in ARCHITECTURE


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each line of an indented block that calls wain."""
    for line in text.splitlines():
        if match := re.match(r"    (?:\$ )?wain (.+)", line):
            yield shlex.split(match[1], comments=True)


@pytest.mark.parametrize("words", list(_commands(README)), ids=" ".join)
def test_every_command_of_the_readme_parses(words: list[str]) -> None:
    verb = words[0]
    assert verb in VERBS
    parser = argparse.ArgumentParser(exit_on_error=False)
    subparsers = parser.add_subparsers()
    importlib.import_module(f"wain.commands.{verb}").add_parser(_Parents(subparsers, _global_flags()))
    args = parser.parse_args(words)
    assert callable(args.run)


def test_no_registry_is_named() -> None:
    """Package registries' hosts, taken from this machine's own settings, stand nowhere in the sources."""
    from pip._internal.models.index import PyPI

    hosts = {PyPI.netloc, PyPI.file_storage_domain}
    for path in Path("/etc/apt").glob("sources.list*"):
        for file in [path] if path.is_file() else path.iterdir():
            hosts |= set(re.findall(r"https?://([^/\s]+)", file.read_text()))
    for folder in ("src", "tests", "docs", "benchmarks", "examples", ".ci"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix in (".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ""):
                text = file.read_text(errors="replace")
                assert not [host for host in hosts if host in text], file
