"""What flags, variables, pip's files and pyproject.toml say, and which of them said it.

Precedence: flags, WAIN_* variables, [tool.wain], then either uv's settings (where a project or its
variables configure uv's indexes) or PIP_* variables and pip's files with pip's meaning.
"""

from __future__ import annotations

import logging
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from msgspec import field
from msgspec.structs import replace

from wain.errors import ProjectError, UsageError
from wain.pipconf import Setting, parse_boolean, read_pip_configuration
from wain.records import Record

logger = logging.getLogger(__name__)

_MAX_PYPROJECT_BYTES = 16 << 20

ENGINES = ("auto", "docker", "buildah", "podman", "none")
"""What may run the steps of a Dockerfile that have to be run."""

_TEXT_OPTIONS = ("index-url", "cert", "client-cert", "proxy", "timeout", "retries", "keyring-provider")
_LIST_OPTIONS = (
    "extra-index-url",
    "find-links",
    "trusted-host",
    "only-binary",
    "no-binary",
    "constraint",
    "build-constraint",
)
_BOOLEAN_OPTIONS = ("no-index", "pre", "prefer-binary", "no-deps")
INDEX_OPTIONS = (*_TEXT_OPTIONS, *_LIST_OPTIONS, *_BOOLEAN_OPTIONS)
_UV_INDEX_VARIABLES = (
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_CONFIG_FILE",
)
_UV_INDEX_KEYS = frozenset(
    {"index", "index-url", "extra-index-url", "find-links", "no-index", "index-strategy", "pip", "sources"}
)


class IndexSettings(Record, frozen=True, kw_only=True):
    """Where distributions come from and how they are chosen and fetched."""

    unshown: ClassVar = ("index_url", "extra_index_urls", "find_links", "proxy")

    index_url: str | None = None
    """The main index; None for the one that uv has built in. May hold credentials."""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    """Folders, `file:` URLs or pages with links, in order."""
    no_index: bool = False
    uv_configuration: bool = False
    """uv's own configuration counts: its files are read by uv, and the first index with a name wins."""
    pre: bool = False
    prefer_binary: bool = False
    only_binary: tuple[str, ...] = ()
    """`:all:`, `:none:` and names, in the order written."""
    no_binary: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    build_constraints: tuple[str, ...] = ()
    cert: Path | None = None
    client_cert: Path | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retries: int | None = None
    keyring_provider: str = "auto"
    """`auto`, `disabled`, `import` or `subprocess`, as pip has them."""
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Option name -> where its value was written."""

    @property
    def index_urls(self) -> tuple[str, ...]:
        """The configured indexes, the main one first; without the built-in default."""
        if self.no_index:
            return ()
        return (*((self.index_url,) if self.index_url else ()), *self.extra_index_urls)

    def allows_sdist(self, name: str) -> bool:
        """Whether only-binary lets a distribution be built here; `name` is normalised."""
        allowed = True
        for word in self.only_binary:
            if word == ":all:":
                allowed = False
            elif word == ":none:":
                allowed = True
            elif normalize_name(word) == name:
                allowed = False
        return allowed

    def wants_sdist(self, name: str) -> bool:
        """Whether no-binary forbids a distribution's wheels; `name` is normalised."""
        wanted = False
        for word in self.no_binary:
            if word == ":all:":
                wanted = True
            elif word == ":none:":
                wanted = False
            elif normalize_name(word) == name:
                wanted = True
        return wanted


class BuildSettings(Record, frozen=True, kw_only=True):
    """What is declared for builds from source, by a distribution's normalised name; under the empty one, for all."""

    unshown: ClassVar = ("env",)

    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Variables."""
    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Config settings for the back end."""

    def env_of(self, name: str) -> dict[str, str]:
        """The variables for a distribution."""
        return {**self.env.get("", {}), **self.env.get(name, {})}

    def config_of(self, name: str) -> dict[str, str]:
        """The config settings for a distribution."""
        return {**self.config.get("", {}), **self.config.get(name, {})}


class WainSettings(Record, frozen=True, kw_only=True):
    """`[tool.wain]`, checked: the names are the flags'. None and empty where nothing was said."""

    unshown: ClassVar = ("build_env", "index")

    path: Path | None = None
    """The pyproject.toml it stands in."""
    name: str | None = None
    base: str | None = None
    python: str | None = None
    platforms: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    user: str | None = None
    compile: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: int | None = None
    max_size: str | None = None
    max_waste: str | None = None
    cache_from: tuple[str, ...] = ()
    engine: str | None = None
    mirrors: Mapping[str, str] = field(default_factory=dict)
    debian_mirrors: tuple[str, ...] = ()
    build_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    stop_signal: str | None = None
    cache_dir: str | None = None
    no_cache_dir: bool | None = None
    cache_max_size: str | None = None
    index: Mapping[str, Setting] = field(default_factory=dict)
    """The options of the index (`index-url`, `find-links`...) as written."""

    @property
    def builds(self) -> BuildSettings:
        """What is declared for builds from source."""
        return BuildSettings(env=self.build_env, config=self.config_settings)

    def with_builds(self, given: BuildSettings) -> WainSettings:
        """These settings with what else is declared for builds, which wins."""
        return replace(
            self,
            build_env=_merged(self.build_env, given.env),
            config_settings=_merged(self.config_settings, given.config),
        )


def normalize_name(name: str) -> str:
    """A distribution's name as the packaging specifications normalise it: `Foo.Bar_x` -> `foo-bar-x`."""
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


def read_pyproject(project: Path) -> dict[str, Any]:
    """A project folder's pyproject.toml as TOML has it; empty where there is none.

    :raises ProjectError: when it does not parse.
    """
    import tomllib

    path = project / "pyproject.toml"
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_PYPROJECT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}", hint="Check its mode.") from error
    if len(data) > _MAX_PYPROJECT_BYTES:
        raise ProjectError(f"{path} is larger than 16 MiB", hint="A pyproject.toml is a few kilobytes.")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{path} is no valid TOML: {error}", hint="Mend that line.") from error


def wain_settings(project: Path) -> WainSettings:
    """`[tool.wain]` of the project folder's pyproject.toml.

    :raises ProjectError: when an unknown key stands there (the nearest known one is named), or a value
        has the wrong type.
    """
    table = _table(read_pyproject(project), "tool", "wain")
    if not table:
        return WainSettings()
    path = project / "pyproject.toml"
    known = {name.replace("_", "-") for name in WainSettings.__struct_fields__} - {"path", "index"}
    problems: list[str] = []
    values: dict[str, Any] = {"path": path}
    index: dict[str, Setting] = {}
    for key, value in table.items():
        if key in INDEX_OPTIONS:
            try:
                index[key] = Setting(value=_index_text(key, value), origin=f"{path} [tool.wain] {key}")
            except TypeError as error:
                problems.append(f"{key} {error}")
        elif key not in known:
            problems.append(f"{key} is not known{_nearest(key, known | set(INDEX_OPTIONS))}")
        else:
            try:
                values[key.replace("-", "_")] = _CHECKS.get(key, _text)(value)
            except TypeError as error:
                problems.append(f"{key} {error}")
    if problems:
        raise ProjectError(f"[tool.wain] in {path}: {'; '.join(problems)}", hint="The keys are the names of the flags.")
    return WainSettings(**values, index=index)


def index_settings(
    project: Path | None = None,
    *,
    flags: Mapping[str, Setting] | None = None,
    environ: Mapping[str, str] | None = None,
    wain: WainSettings | None = None,
) -> IndexSettings:
    """The settings of indexes for a project, from everything that may say them.

    :param flags: option name (`index-url`) -> its value; lists separated by white space.
    :raises UsageError: when a value is malformed; its origin is named.
    :raises ProjectError: when pyproject.toml does not parse.
    """
    environ = os.environ if environ is None else environ
    pyproject = read_pyproject(project) if project else {}
    if wain is None:
        wain = wain_settings(project) if project else WainSettings()
    own: ChainMap[str, Setting] = ChainMap(
        dict(flags or {}),
        {
            name: Setting(value=environ[variable], origin=variable)
            for name in INDEX_OPTIONS
            if environ.get(variable := "WAIN_" + name.upper().replace("-", "_"))
        },
        dict(wain.index),
    )
    own_index = any(name in own for name in ("index-url", "extra-index-url", "find-links", "no-index"))
    if not own_index and _configures_uv(project, pyproject, environ):
        return _uv_settings(own, pyproject, project, environ)
    pip = read_pip_configuration(environ)
    # uv has no merging of its own here: what pip would read is what counts.
    merged = ChainMap(dict(own), dict(pip.variables), dict(pip.files))
    return _from_settings(merged, project)


def _from_settings(settings: Mapping[str, Setting], project: Path | None) -> IndexSettings:
    def text(name: str) -> str | None:
        found = settings.get(name)
        return found.value.strip() or None if found else None

    def words(name: str, separators: str = "") -> tuple[str, ...]:
        value = settings[name].value if name in settings else ""
        for separator in separators:
            value = value.replace(separator, " ")
        return tuple(value.split())

    def boolean(name: str) -> bool:
        return name in settings and parse_boolean(settings[name])

    def path(name: str) -> Path | None:
        value = text(name)
        return Path(value).expanduser() if value else None

    def places(name: str) -> tuple[str, ...]:
        # As with pip, a relative path starts where the command runs; what a project writes starts there.
        by_project = project is not None and name in settings and "[tool.wain]" in settings[name].origin
        folder = project.absolute() if project is not None and by_project else Path.cwd()
        return tuple(
            word if "://" in word or word.startswith("file:") else str(folder / Path(word).expanduser())
            for word in words(name)
        )

    keyring = text("keyring-provider") or "auto"
    if keyring not in ("auto", "disabled", "import", "subprocess"):
        raise UsageError(
            f"{keyring!r} in {settings['keyring-provider'].origin} is no keyring provider",
            hint="It is auto, disabled, import or subprocess.",
        )
    return IndexSettings(
        index_url=text("index-url"),
        extra_index_urls=words("extra-index-url"),
        find_links=places("find-links"),
        no_index=boolean("no-index"),
        pre=boolean("pre"),
        prefer_binary=boolean("prefer-binary"),
        only_binary=words("only-binary", ","),
        no_binary=words("no-binary", ","),
        constraints=places("constraint"),
        build_constraints=places("build-constraint"),
        cert=path("cert"),
        client_cert=path("client-cert"),
        proxy=text("proxy"),
        trusted_hosts=words("trusted-host"),
        timeout_seconds=_number(settings.get("timeout")),
        retries=_whole_number(settings.get("retries")),
        keyring_provider=keyring,
        origins=MappingProxyType({name: settings[name].origin for name in INDEX_OPTIONS if name in settings}),
    )


def _configures_uv(project: Path | None, pyproject: dict[str, Any], environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) for name in _UV_INDEX_VARIABLES):
        return True
    if _UV_INDEX_KEYS & _table(pyproject, "tool", "uv").keys():
        return True
    return project is not None and ((project / "uv.toml").is_file() or (project / "uv.lock").is_file())


def _uv_settings(
    own: Mapping[str, Setting], pyproject: dict[str, Any], project: Path | None, environ: Mapping[str, str]
) -> IndexSettings:
    table = _table(pyproject, "tool", "uv")
    if project and (project / "uv.toml").is_file():
        table = _read_uv_toml(project / "uv.toml")
    origin = "uv.toml" if project and (project / "uv.toml").is_file() else "pyproject.toml [tool.uv]"
    default: str | None = None
    extra: list[str] = []
    for entry in _list_of_tables(table.get("index")):
        url, name = entry.get("url"), entry.get("name")
        if not isinstance(url, str):
            continue
        if isinstance(name, str):
            url = _with_named_credentials(url, name, environ)
        if entry.get("default") is True:
            default = url
        else:
            extra.append(url)
    default = default or _string(table.get("index-url"))
    extra += _strings(table.get("extra-index-url"))
    find_links = _strings(table.get("find-links"))
    variable_default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    variable_extra = (environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL") or "").split()
    if variable_default:
        default, origin = variable_default, "UV_DEFAULT_INDEX"
    extra = [_without_index_name(url, environ) for url in variable_extra] + extra
    if environ.get("UV_FIND_LINKS"):
        find_links = [link for link in environ["UV_FIND_LINKS"].split(",") if link] + find_links
    rest = _from_settings(own, project)
    timeout = environ.get("UV_HTTP_TIMEOUT")
    return IndexSettings(
        index_url=_without_index_name(default, environ) if default else None,
        extra_index_urls=tuple(extra),
        find_links=tuple(find_links),
        no_index=table.get("no-index") is True or environ.get("UV_NO_INDEX", "") in ("1", "true"),
        uv_configuration=True,
        pre=rest.pre,
        prefer_binary=rest.prefer_binary,
        only_binary=rest.only_binary or ((":all:",) if table.get("no-build") is True else ()),
        no_binary=rest.no_binary,
        constraints=rest.constraints,
        build_constraints=rest.build_constraints,
        cert=rest.cert,
        client_cert=rest.client_cert,
        proxy=rest.proxy,
        trusted_hosts=rest.trusted_hosts or tuple(_strings(table.get("allow-insecure-host"))),
        timeout_seconds=rest.timeout_seconds
        or (_number(Setting(value=timeout, origin="UV_HTTP_TIMEOUT")) if timeout else None),
        retries=rest.retries,
        keyring_provider=_string(table.get("keyring-provider")) or rest.keyring_provider,
        origins=MappingProxyType({"index-url": origin, **rest.origins}),
    )


def _read_uv_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ProjectError(f"{path} is no valid TOML: {error}", hint="Mend that line.") from error


def _with_named_credentials(url: str, name: str, environ: Mapping[str, str]) -> str:
    from urllib.parse import quote, urlsplit, urlunsplit

    variable = "".join(c if c.isalnum() else "_" for c in name).upper()
    user = environ.get(f"UV_INDEX_{variable}_USERNAME")
    password = environ.get(f"UV_INDEX_{variable}_PASSWORD")
    parts = urlsplit(url)
    if (not user and not password) or "@" in parts.netloc:
        return url
    secret = quote(user or "", safe="") + (":" + quote(password, safe="") if password else "")
    return urlunsplit(parts._replace(netloc=f"{secret}@{parts.netloc}"))


def _without_index_name(text: str, environ: Mapping[str, str]) -> str:
    name, equals, url = text.partition("=")
    if equals and "/" not in name and ":" not in name:
        return _with_named_credentials(url, name, environ)
    return text


def _number(setting: Setting | None) -> float | None:
    if setting is None:
        return None
    try:
        number = float(setting.value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise UsageError(f"{setting.value!r} in {setting.origin} is no number", hint="Write a number.")
    return number


def _whole_number(setting: Setting | None) -> int | None:
    number = _number(setting)
    return None if number is None else int(number)


def _table(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _list_of_tables(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _nearest(key: str, known: set[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key.replace("_", "-").lower(), sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _index_text(key: str, value: object) -> str:
    if key in _BOOLEAN_OPTIONS:
        return "true" if _boolean(value) else "false"
    if key in _LIST_OPTIONS:
        return " ".join(_words(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return value


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("must be a list of strings")
    return tuple(_text(item) for item in value)


def _arguments(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        import shlex

        return tuple(shlex.split(value))
    return _words(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("must be a whole number")
    return value


def _ports(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("must be a list of ports")
    ports = []
    for item in value:
        number, _, protocol = str(item).partition("/")
        if isinstance(item, bool) or not number.isdecimal() or not 0 < int(number) < 65536:
            raise TypeError(f"has {item!r}, which is no port")
        if protocol not in ("", "tcp", "udp", "sctp"):
            raise TypeError(f"has {item!r}, whose protocol is none of tcp, udp, sctp")
        ports.append(f"{int(number)}/{protocol or 'tcp'}")
    return tuple(ports)


def _strings_by_name(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError("must be a table of strings")
    return MappingProxyType({str(key): _scalar(item) for key, item in value.items()})


def _scalar(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError("must have strings for values")
    return str(value)


def _merged(
    weaker: Mapping[str, Mapping[str, str]], stronger: Mapping[str, Mapping[str, str]]
) -> Mapping[str, Mapping[str, str]]:
    return {name: {**weaker.get(name, {}), **stronger.get(name, {})} for name in {**weaker, **stronger}}


def _tables_by_name(value: object) -> Mapping[str, Mapping[str, str]]:
    if not isinstance(value, Mapping):
        raise TypeError("must be a table of tables")
    return MappingProxyType({normalize_name(str(key)): _strings_by_name(item) for key, item in value.items()})


def _engine(value: object) -> str:
    if value not in ENGINES:
        raise TypeError(f"must be one of {', '.join(ENGINES)}")
    return str(value)


_CHECKS: Mapping[str, Any] = {
    "platforms": _words,
    "packages": _words,
    "extras": lambda value: tuple(normalize_name(item) for item in _words(value)),
    "groups": lambda value: tuple(normalize_name(item) for item in _words(value)),
    "entrypoint": _arguments,
    "command": _arguments,
    "env": _strings_by_name,
    "ports": _ports,
    "volumes": _words,
    "user": _scalar,
    "compile": _boolean,
    "labels": _strings_by_name,
    "annotations": _strings_by_name,
    "include": _words,
    "exclude": _words,
    "layers": _integer,
    "cache-from": _words,
    "engine": _engine,
    "mirrors": _strings_by_name,
    "debian-mirrors": _words,
    "build-env": _tables_by_name,
    "config-settings": _tables_by_name,
    "tags": _words,
    "no-cache-dir": _boolean,
    "cache-max-size": lambda value: str(value) if isinstance(value, int) else _text(value),
    "max-size": lambda value: str(value) if isinstance(value, int) else _text(value),
    "max-waste": lambda value: str(value) if isinstance(value, int) else _text(value),
}
