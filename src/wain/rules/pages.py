"""The rules' pages for docs/rules, made from the rules alone: `python -m wain.rules.pages docs/rules` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from wain.rules import RULES
from wain.rules.rule import Rule


def page(rule: Rule) -> str:
    """One rule's page in Markdown."""
    silence = f"Put `# wain: ignore={rule.id} the reason` on the line above the instruction"
    if rule.hadolint:
        codes = " or ".join(f"`# hadolint ignore={code}`" for code in rule.hadolint)
        silence += f" (hadolint's {codes} counts as well)"
    silence += f', or `ignore = ["{rule.id}"]` under `[tool.wain.audit]` in pyproject.toml.'
    parts = [
        f"# {rule.id}",
        f"{rule.title}. Severity: {rule.severity.value}.",
        "## What it costs",
        rule.cost,
        "## Why",
        rule.why,
        "## How to mend it",
        rule.mend,
        _block("Found fault with:", rule.example.bad),
        _block("Mended:", rule.example.fixed),
    ]
    parts.extend(_block("Right as well:", text) for text in rule.example.good)
    parts += ["## How to silence it", silence]
    return "\n\n".join(parts) + "\n"


def _block(title: str, text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) > 12:
        lines = [*lines[:4], f"# ... {len(lines) - 5} more ...", lines[-1]]
    body = "\n".join(lines)
    return f"{title}\n\n```dockerfile\n{body}\n```"


def index() -> str:
    """The table of all rules."""
    rows = "\n".join(f"| [{rule.id}]({rule.id}.md) | {rule.severity.value} | {rule.title} |" for rule in RULES)
    return f"# Rules of `wain audit`\n\n| Rule | Severity | What it finds |\n| --- | --- | --- |\n{rows}\n"


def pages() -> dict[str, str]:
    """All pages by file name."""
    return {"README.md": index(), **{f"{rule.id}.md": page(rule) for rule in RULES}}


def write(folder: Path) -> None:
    """Write all pages, and remove those of rules that there are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    found = pages()
    for path in folder.glob("*.md"):
        if path.name not in found:
            path.unlink()
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
