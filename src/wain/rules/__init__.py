"""All rules, one module each: every module of this folder with a `RULE`, but for those that rules share.

`RULES` is in the order of the documentation: by id.
"""

from __future__ import annotations

import importlib
import pkgutil

from wain.rules.rule import DockerfileSubject, Options, Rule

__all__ = ["BY_ID", "RULES", "DockerfileSubject", "Options", "Rule"]

_SHARED = frozenset({"caches", "pages", "rule", "secrets"})


def _rules() -> tuple[Rule, ...]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED]
    found: list[Rule] = [importlib.import_module(f"{__name__}.{name}").RULE for name in names]
    return tuple(sorted(found, key=lambda rule: rule.id))


RULES = _rules()
BY_ID: dict[str, Rule] = {rule.id: rule for rule in RULES}
