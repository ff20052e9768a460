"""The flags of package indexes, which several verbs have: pip's names with pip's meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

from wain.pipconf import Setting
from wain.settings import IndexSettings, WainSettings, index_settings

_VALUES = {
    "--index-url": ("URL", "the package index"),
    "--cert": ("FILE", "the authorities that are trusted for indexes"),
    "--client-cert": ("FILE", "a certificate with its key, for indexes that ask for one"),
    "--proxy": ("URL", "the proxy for package indexes"),
    "--timeout": ("SECONDS", "how long an index may be silent"),
    "--retries": ("COUNT", "how often a failed request is tried again"),
    "--keyring-provider": ("NAME", "auto, disabled, import or subprocess"),
}
_LISTS = {
    "--extra-index-url": ("URL", "a further index; the best version of all is taken"),
    "--find-links": ("PLACE", "a folder or page with files"),
    "--trusted-host": ("HOST", "a host whose certificate is not checked"),
    "--only-binary": ("NAMES", "never build these from source; :all: for none at all"),
    "--no-binary": ("NAMES", "never take wheels of these; :all: for none at all"),
    "--constraint": ("FILE", "versions that are allowed, where a distribution is needed"),
}
_SWITCHES = {
    "--no-index": "ask no index, only find-links",
    "--pre": "take pre-releases as well",
}
_SHORT = {"--index-url": "-i", "--constraint": "-c"}


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of package indexes, in a group of their own."""
    group = parser.add_argument_group("package indexes")
    for flag, (metavar, help_text) in _VALUES.items():
        names = [*([_SHORT[flag]] if flag in _SHORT else []), flag]
        group.add_argument(*names, metavar=metavar, help=help_text)
    for flag, (metavar, help_text) in _LISTS.items():
        names = [*([_SHORT[flag]] if flag in _SHORT else []), flag]
        group.add_argument(*names, metavar=metavar, action="append", help=help_text)
    for flag, help_text in _SWITCHES.items():
        group.add_argument(flag, action="store_true", help=help_text)


def index_flags(args: argparse.Namespace) -> dict[str, Setting]:
    """What the flags of package indexes say, by option name."""
    found: dict[str, Setting] = {}
    for flag in (*_VALUES, *_LISTS, *_SWITCHES):
        value = getattr(args, flag[2:].replace("-", "_"), None)
        if isinstance(value, list):
            value = " ".join(value)
        if value is True:
            value = "true"
        if value:
            found[flag[2:]] = Setting(value=str(value), origin=flag)
    return found


def settings_of(args: argparse.Namespace, project: Path | None, *, wain: WainSettings | None = None) -> IndexSettings:
    """The settings of indexes for a project, with the flags of a command line.

    :raises UsageError: when a value is malformed.
    """
    return index_settings(project, flags=index_flags(args), wain=wain)
