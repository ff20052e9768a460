"""`wain lock`: the exact files of a project's dependencies, written to pylock.toml."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wain.commands.index_options import add_index_arguments, settings_of
from wain.errors import LockError, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wain.lock import Lock
    from wain.platforms import Target
    from wain.settings import WainSettings

# What an image has of each minor version where no base says it: the patch version and glibc's minor.
_USUAL = {
    "3.9": (2, 31),
    "3.10": (15, 36),
    "3.11": (2, 36),
    "3.12": (8, 36),
    "3.13": (5, 41),
    "3.14": (0, 41),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `lock`."""
    parser = subparsers.add_parser("lock", help="write the exact files of a project's dependencies to pylock.toml")
    parser.add_argument("project", metavar="PATH", nargs="?", default=".", help="the project's folder")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write (default: PATH/pylock.toml)")
    parser.add_argument(
        "--upgrade",
        metavar="NAME",
        nargs="?",
        action="append",
        const="",
        help="take newer versions, of NAME alone where it is given",
    )
    parser.add_argument("--python", metavar="X.Y", help="the Python of the image")
    parser.add_argument("--platform", metavar="OS/ARCH[,...]", action="append", help="the platforms, as in linux/amd64")
    parser.add_argument("--extra", metavar="NAME", action="append", help="an extra of the project")
    parser.add_argument("--group", metavar="NAME", action="append", help="a dependency group")
    parser.add_argument("--offline", action="store_true", help="make no request")
    parser.add_argument("--refresh", action="store_true", help="believe nothing that was remembered")
    add_index_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Locks and writes.

    :raises LockError: when the project has a lock of another tool that would win over what is written.
    :raises OutputError: when the file cannot be written.
    """
    from wain.cachedir import choose_cache
    from wain.index import http_settings
    from wain.lock import Lock
    from wain.locking import make_lock
    from wain.settings import normalize_name, wain_settings
    from wain.store import Store
    from wain.transport import Transport

    project = Path(args.project)
    if not project.is_dir():
        raise UsageError(f"{project} is no folder", hint="Name the folder with pyproject.toml.")
    wain = wain_settings(project)
    settings = settings_of(args, project, wain=wain)
    output = Path(args.output) if args.output else project / "pylock.toml"
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is no folder", hint="Make it, or name another file.")
    extras = [normalize_name(name) for name in args.extra or wain.extras]
    groups = [normalize_name(name) for name in args.group or wain.groups]
    names = [normalize_name(name) for name in args.upgrade or () if name]
    upgrade: Sequence[str] | None = None
    if args.upgrade is not None:
        upgrade = names if all(args.upgrade) else []
    choice = choose_cache(
        flag_dir=getattr(args, "cache_dir", None), flag_none=getattr(args, "no_cache_dir", False), wain=wain
    )
    before: Lock | None = None
    if output.is_file() and upgrade != []:
        before = Lock.read(output)
        unknown = [name for name in names if name not in {package.name for package in before.packages}]
        if unknown:
            raise LockError(f"{output.name} has no {', '.join(unknown)} to upgrade", hint="Check the spelling.")
    with Store.open(choice.path) as store:
        lock = make_lock(
            project,
            targets=targets_of(args, project, wain, before),
            extras=extras,
            groups=groups,
            settings=settings,
            store=store,
            transport=Transport(http_settings(settings), offline=args.offline),
            before=before,
            upgrade=upgrade,
            refresh=args.refresh,
        )
    _write(output, lock.to_toml(output.parent))
    _report(args, lock, before, output)
    return 0


def targets_of(args: argparse.Namespace, project: Path, wain: WainSettings, before: Lock | None) -> list[Target]:
    """The environments to lock for: --python and --platform, [tool.wain], the earlier lock's, else usual ones.

    :raises PythonError: when it is no Python that can be had.
    """
    from wain.choose import choose_python
    from wain.platforms import Platform, PythonVersion, Target
    from wain.project import load_project

    locked = None
    if before is not None and before.requires_python and before.requires_python.startswith("==3."):
        locked = before.requires_python.removeprefix("==").removesuffix(".*")
    chosen = choose_python(
        load_project(project),
        flag=args.python,
        setting=wain.python,
        locked=locked,
        built_in=("3.11", "3.13"),
    )
    patch, glibc = _USUAL.get(chosen.minor, (0, 41))
    python = PythonVersion.parse(f"{chosen.minor}.{patch}")
    words = [word for text in args.platform or () for word in text.split(",") if word]
    platforms = [Platform.parse(word) for word in words or wain.platforms] or [Platform.host()]
    return [
        Target(
            platform=platform,
            python=python,
            abi=f"cp{python.major}{python.minor}",
            libc_version=(2, glibc),
        )
        for platform in dict.fromkeys(platforms)
    ]


def _write(path: Path, text: str) -> None:
    """Replaces a file at once: it is the old one or the new one, never a part."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}", hint="Make room, or name another file with -o."
        ) from error


def _report(args: argparse.Namespace, lock: Lock, before: Lock | None, output: Path) -> None:
    console = getattr(args, "console", None)

    def say(text: str) -> None:
        if console is not None:
            console.say(text)

    old = {package.name: package.version for package in before.packages} if before else {}
    new = {package.name: package.version for package in lock.packages}
    if before is not None:
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                say(f"- {name} {old[name]}")
            elif name not in old:
                say(f"+ {name} {new[name]}")
            elif old[name] != new[name]:
                say(f"~ {name} {old[name]} -> {new[name]}")
    say(f"{len(new)} packages for {len(lock.environments) or 'all'} environment(s) are locked in {output}")
