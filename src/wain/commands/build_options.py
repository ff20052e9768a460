"""The flags for builds from source, which several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from wain.errors import UsageError
from wain.settings import BuildSettings, normalize_name


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them, in a group of their own."""
    group = parser.add_argument_group("builds from source")
    group.add_argument(
        "--build-env",
        metavar="[DIST:]NAME=VALUE",
        action="append",
        default=[],
        help="a variable for the builds of a distribution, or of all",
    )
    group.add_argument(
        "-C",
        "--config-settings",
        "--config-setting",
        metavar="[DIST:]KEY=VALUE",
        action="append",
        default=[],
        help="a setting for the back end of a distribution, or of all",
    )


def build_flags(args: argparse.Namespace) -> BuildSettings:
    """What they say; nothing for a verb that has none.

    :raises UsageError: when one is malformed.
    """
    return BuildSettings(
        env=_by_distribution("--build-env", getattr(args, "build_env", ())),
        config=_by_distribution("--config-settings", getattr(args, "config_settings", ())),
    )


def _by_distribution(flag: str, texts: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, _, key = left.rpartition(":")
        if not equals or not key:
            # The value may be a secret, and stands in no message.
            raise UsageError(f"{flag} {left!r} sets nothing", hint=f"As in {flag} pycurl:NAME=VALUE.")
        found.setdefault(normalize_name(name), {})[key] = value
    return found
