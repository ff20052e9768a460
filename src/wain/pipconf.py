"""pip's configuration: its files and PIP_* variables, merged as pip merges them.

Source: pip's documentation, "Configuration" (files, precedence, environment variables).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_MAX_FILE_BYTES = 1 << 20
_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
# Other names that pip's options have; configuration may use any of them.
_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url", "trusted-hosts": "trusted-host"}


class Setting(Struct, frozen=True, kw_only=True):
    """One value as written, and where: `PIP_INDEX_URL`, `--index-url`, `/etc/pip.conf:3`."""

    value: str
    origin: str


def parse_boolean(setting: Setting) -> bool:
    """What pip takes for true or false.

    :raises UsageError: when it is neither.
    """
    text = setting.value.strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(
        f"{setting.value!r} in {setting.origin} is neither true nor false",
        hint="Write true or false (yes/no, on/off and 1/0 do as well).",
    )


class PipConfiguration(Struct, frozen=True, kw_only=True):
    """The long option names that pip's files and variables set, with the strongest value of each."""

    files: Mapping[str, Setting]
    """From files: [install] over [global]; within a section site over user over global."""
    variables: Mapping[str, Setting]
    """From PIP_* variables; these win over files."""
    cache_switches: tuple[Setting, ...] = ()
    """Every `no-cache-dir` that is set, in files first: pip looks at each, and any of them disables."""

    def get(self, name: str) -> Setting | None:
        """The strongest value of an option, by its long name without dashes; empty values are unset."""
        return self.variables.get(name) or self.files.get(name)

    def text(self, name: str) -> str | None:
        setting = self.get(name)
        return setting.value.strip() if setting else None

    def words(self, name: str) -> tuple[str, ...]:
        """A list option's values, split at white space as pip does; one source wins, lists never add up."""
        setting = self.get(name)
        return tuple(setting.value.split()) if setting else ()

    def boolean(self, name: str) -> bool:
        """:raises UsageError: when the value is no boolean."""
        setting = self.get(name)
        return parse_boolean(setting) if setting else False

    def cache_folder(self) -> CacheFolder:
        """What pip's configuration says of its cache, by pip's own rules.

        A `no-cache-dir` in a file outlives both variables. In a variable any boolean disables the
        cache, `0` and `false` too; empty is unset.

        :raises UsageError: when `no-cache-dir` is no boolean.
        """
        for setting in self.cache_switches:
            parse_boolean(setting)
        if self.cache_switches:
            return CacheFolder(disabled=True, path=None, origin=self.cache_switches[0].origin)
        cache_dir = self.variables.get("cache-dir") or self.files.get("cache-dir")
        if cache_dir is None:
            return CacheFolder(disabled=False, path=None, origin="")
        path = Path(cache_dir.value.strip()).expanduser()
        return CacheFolder(disabled=False, path=path, origin=cache_dir.origin)


class CacheFolder(Struct, frozen=True, kw_only=True):
    """Whether a cache is wanted, and where; `path` is None for the usual place."""

    disabled: bool
    path: Path | None
    origin: str


def pip_configuration_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that pip would read, weakest first, whether they exist or not."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    home = Path(environ.get("HOME") or Path("~").expanduser())
    if sys.platform == "darwin":
        shared = [Path("/Library/Application Support/pip/pip.conf")]
        support = home / "Library/Application Support/pip"
        own = (support if support.is_dir() else home / ".config/pip") / "pip.conf"
    else:
        folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
        shared = [*(Path(folder) / "pip" / "pip.conf" for folder in folders if folder), Path("/etc/pip.conf")]
        own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    files = list(shared)
    if not (chosen and Path(chosen).exists()):
        files += [home / ".pip" / "pip.conf", own]
    files.append(Path(environ.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return files


def read_pip_configuration(environ: Mapping[str, str] | None = None) -> PipConfiguration:
    """pip's files and variables, merged.

    :raises UsageError: when a file does not parse.
    """
    environ = os.environ if environ is None else environ
    sections: dict[str, dict[str, Setting]] = {"global": {}, "install": {}}
    for path in pip_configuration_files(environ):
        for section, values in _read_file(path).items():
            sections[section].update(values)
    files: dict[str, Setting] = {}
    for section in ("global", "install"):
        files.update({name: setting for name, setting in sections[section].items() if setting.value})
    variables = {
        _option_name(name.removeprefix("PIP_")): Setting(value=value, origin=name)
        for name, value in sorted(environ.items())
        if name.startswith("PIP_") and value and name not in ("PIP_VERSION", "PIP_HELP", "PIP_CONFIG_FILE")
    }
    sources = (sections["install"], sections["global"], variables)
    switches = tuple(found for source in sources if (found := source.get("no-cache-dir")) and found.value)
    return PipConfiguration(files=files, variables=variables, cache_switches=switches)


def _option_name(text: str) -> str:
    name = text.lower().replace("_", "-").removeprefix("--")
    return _ALIASES.get(name, name)


def _read_file(path: Path) -> dict[str, dict[str, Setting]]:
    import configparser

    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning("pip's configuration %s is not readable (%s) and is not used", path, error.strerror)
        return {}
    if len(data) > _MAX_FILE_BYTES:
        raise UsageError(f"{path} is too large for a configuration of pip", hint="Look at what it holds.")
    parser = configparser.RawConfigParser()
    parser.optionxform = _option_name  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(data.decode("utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        # Some of these errors quote the line, which may hold a password: only the line's number is told.
        number = getattr(error, "lineno", None) or next(
            (line for line, _ in getattr(error, "errors", None) or ()), None
        )
        where = f"{path}:{number}" if number else str(path)
        raise UsageError(f"{where} does not parse", hint="`pip config debug` reads the same file.") from None
    lines = _option_lines(data.decode("utf-8"))
    return {
        section: {
            name: Setting(value=value or "", origin=f"{path}:{lines.get((section, name), 1)}")
            for name, value in parser.items(section)
        }
        for section in ("global", "install")
        if parser.has_section(section)
    }


def _option_lines(text: str) -> dict[tuple[str, str], int]:
    lines: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\[([^\]]+)\]", line):
            section = match[1]
        elif match := re.match(r"([^\s#;:=][^:=]*?)\s*[:=]", line):
            lines[section, _option_name(match[1])] = number
    return lines
