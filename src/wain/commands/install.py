"""`wain install`: into a virtual environment or a folder, from the cache."""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wain.errors import InstallError, LockError, PythonError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wain.commands.console import Console
    from wain.install import Scheme
    from wain.installation import Installed
    from wain.interpreters import Interpreter
    from wain.lock import Lock
    from wain.settings import BuildSettings, IndexSettings
    from wain.store import Store
    from wain.transport import Transport
    from wain.wheels import Wheel

_LOCK_NAMES = ("uv.lock",)
_RECORD_MEMO = "right-record"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `install`."""
    from wain.commands.build_options import add_build_arguments
    from wain.commands.index_options import add_index_arguments

    parser = subparsers.add_parser("install", help="install into a folder or virtual environment, from the cache")
    parser.add_argument("requirements", nargs="*", metavar="REQUIREMENT", help="as in 'flask>=3'; a path; a URL")
    parser.add_argument(
        "-r",
        "--requirement",
        action="append",
        default=[],
        metavar="FILE",
        help="a requirements file, a pylock.toml or a uv.lock",
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--target", metavar="DIR", help="a folder that will be on sys.path")
    place.add_argument("--venv", metavar="DIR", help="a virtual environment; it is made if it is not there")
    parser.add_argument("--python", metavar="X.Y", help="the Python of a new environment, or that --target is for")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=None, help="make bytecode now (default: when run)"
    )
    parser.add_argument("--extra", metavar="NAME", action="append", default=[], help="an extra of the lock's project")
    parser.add_argument("--group", metavar="NAME", action="append", default=[], help="a group of the lock's project")
    parser.add_argument("--offline", action="store_true", help="make no request")
    parser.add_argument("--refresh", action="store_true", help="believe nothing that was remembered")
    add_build_arguments(parser)
    add_index_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Installs.

    :raises InstallError: when the place is not fit to install into.
    :raises LockError: when a distribution has no wheel that fits.
    """
    from wain.cachedir import choose_cache, open_store
    from wain.commands.build_options import build_flags
    from wain.commands.index_options import settings_of
    from wain.distributions import refuse_managed
    from wain.index import http_settings
    from wain.settings import wain_settings
    from wain.transport import Transport

    if not args.requirements and not args.requirement:
        raise UsageError("nothing to install was named", hint="Name requirements, or a file with -r.")
    wain = wain_settings(Path.cwd()).with_builds(build_flags(args))
    choice = choose_cache(
        flag_dir=getattr(args, "cache_dir", None),
        flag_none=getattr(args, "no_cache_dir", False),
        wain=wain,
        follows_pip=True,
    )
    settings = settings_of(args, Path.cwd(), wain=wain)
    with open_store(choice) as store:
        interpreter, scheme = _place(args, store)
        refuse_managed(Path("/", scheme.purelib))
        transport = Transport(http_settings(settings), offline=args.offline)
        done, wheels = store.attempt(
            lambda: _install(args, interpreter, scheme, wain.builds, settings, store, transport)
        )
        if args.compile if args.compile is not None else wain.compile:
            _compile(interpreter, done)
        store.close(max_size_bytes=choice.max_size_bytes)
    _tell(args.console, wheels, done)
    return 0


def _install(
    args: argparse.Namespace,
    interpreter: Interpreter,
    scheme: Scheme,
    builds: BuildSettings,
    settings: IndexSettings,
    store: Store,
    transport: Transport,
) -> tuple[Installed, Sequence[Wheel]]:
    from wain.installation import install_directory

    wheels = _wheels(args, interpreter, builds, settings, store, transport)
    try:
        # A plan is many small objects that all stay: looking among them for garbage finds none.
        gc.freeze()
        known = [wheel.digest for wheel in wheels if store.memo(_RECORD_MEMO, wheel.digest) is not None]
        done = install_directory(wheels, scheme, right_records=known)
        for digest in done.right_records:
            if digest not in known:
                store.put_memo(_RECORD_MEMO, digest, {}, [digest])
    finally:
        for wheel in wheels:
            wheel.close()
    return done, wheels


def _place(args: argparse.Namespace, store: Store) -> tuple[Interpreter, Scheme]:
    """The interpreter that the files are for, and where they go."""
    from wain.install import Scheme
    from wain.interpreters import examine_interpreter, host_interpreter, own_interpreter

    if args.target is not None:
        interpreter = host_interpreter(args.python, store) if args.python else own_interpreter(store)
        if interpreter is None:
            raise PythonError(f"no Python {args.python} on this machine", hint="Install it, or leave out --python.")
        root = _absolute(args.target)
        inside = str(root).strip("/")
        return interpreter, Scheme(
            purelib=inside,
            platlib=inside,
            scripts=f"{inside}/bin",
            headers=f"{inside}/include/python",
            data=inside,
            interpreter=interpreter.path,
            python=interpreter.target.python.short,
        )
    root = _absolute(args.venv)
    program = root / "bin" / "python"
    if not (root / "pyvenv.cfg").is_file():
        _make_environment(root, args.python)
    found = examine_interpreter(str(program), store)
    if found is None:
        raise InstallError(
            f"{program} is no CPython for Linux, or does not run", hint="Make the environment anew: remove its folder."
        )
    if args.python and found.target.python.short != args.python:
        raise UsageError(
            f"{root} has Python {found.target.python.short}, not {args.python}",
            hint="Leave out --python, or name another folder.",
        )
    return found, Scheme.venv(str(root), found.target.python.short, interpreter=str(program))


def _absolute(text: str) -> Path:
    path = Path(text).expanduser()
    # Links on the way are resolved once; what is behind the last name may be a link of the user's own.
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def _make_environment(root: Path, python: str | None) -> None:
    """:raises InstallError: when the folder holds something else, or uv cannot make an environment."""
    from wain.uv_process import run_uv, uv_environment

    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InstallError(
            f"{root} is no virtual environment",
            hint="Name one, or a folder that is empty or not there yet. Use --target for a plain folder.",
        )
    words = ["venv", "--quiet", "--no-project", "--python", python or sys.executable, str(root)]
    result = run_uv(words, environ=uv_environment(own_configuration=False))
    if result.exit_code:
        raise InstallError(
            f"no virtual environment could be made in {root}: {result.errors.strip()[-500:]}",
            hint="Make one with `python -m venv`, or choose another --python.",
        )


def _wheels(
    args: argparse.Namespace,
    interpreter: Interpreter,
    builds: BuildSettings,
    settings: IndexSettings,
    store: Store,
    transport: Transport,
) -> list[Wheel]:
    from wain.wheelhouse import collect_wheels

    console: Console | None = getattr(args, "console", None)
    opened: dict[str, Wheel] = {}
    for lock, folder, urls in _locks(args, interpreter, settings, store, transport):
        for wheel in collect_wheels(
            lock,
            interpreter.target,
            folder=folder,
            settings=settings,
            store=store,
            transport=transport,
            extras=args.extra,
            groups=args.group,
            credential_urls=urls,
            builds=builds,
            progress=console.progress if console is not None else None,
        ):
            if (other := opened.get(wheel.name)) is not None and other.digest != wheel.digest:
                raise LockError(f"{wheel.filename} and {other.filename} are both asked for", hint="Keep one of them.")
            opened[wheel.name] = wheel
    return list(opened.values())


def _locks(
    args: argparse.Namespace, interpreter: Interpreter, settings: IndexSettings, store: Store, transport: Transport
) -> list[tuple[Lock, Path, tuple[str, ...]]]:
    """What is to be installed, each with the folder that its relative paths start from and the direct URLs in it."""
    from wain.lock import Lock
    from wain.lockformats import read_uv_lock
    from wain.locking import lock_for_requirements
    from wain.requirements import Requirements, parse_requirement, read_requirements

    found: list[tuple[Lock, Path, tuple[str, ...]]] = []
    files = []
    for text in args.requirement:
        path = Path(text)
        if path.name in _LOCK_NAMES:
            found.append((read_uv_lock(path, project=path.parent), path.parent.absolute(), ()))
        elif path.suffix == ".toml":
            found.append((Lock.read(path), path.parent.absolute(), ()))
        else:
            files.append(read_requirements(path))
    folder = Path.cwd()
    lines = tuple(parse_requirement(text, "the command line", folder=folder) for text in args.requirements)
    if lines or files:
        first = files[0].path if files else folder / "requirements"
        merged = Requirements(
            path=first,
            lines=(*lines, *(line for file in files for line in file.lines)),
            constraints=tuple(line for file in files for line in file.constraints),
            options={name: setting for file in reversed(files) for name, setting in file.options.items()},
            require_hashes=any(file.require_hashes for file in files),
            files=tuple(path for file in files for path in file.files),
        )
        lock = lock_for_requirements(
            merged,
            targets=[interpreter.target],
            settings=settings,
            store=store,
            transport=transport,
            refresh=args.refresh,
        )
        urls = tuple(line.url for line in (*merged.lines, *merged.constraints) if line.url)
        found.append((lock, first.parent.absolute(), urls))
    return found


def _compile(interpreter: Interpreter, done: Installed) -> None:
    """Bytecode as the interpreter would make it when it imports them; what does not compile is left as it is."""
    modules = "\n".join(path for path in done.files if path.endswith(".py"))
    if not modules:
        return
    command = [interpreter.path, "-I", "-W", "ignore", "-m", "compileall", "-q", "-q", "-j", "0", "-i", "-"]
    try:
        subprocess.run(
            command, input=modules.encode("utf-8", "surrogateescape"), capture_output=True, timeout=1800, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(
            f"{interpreter.path} does not compile: {error}", hint="All is installed; leave out --compile."
        ) from error


def _tell(console: Console, wheels: Sequence[Wheel], done: Installed) -> None:
    versions = {wheel.name: wheel.version for wheel in wheels}
    for name in done.new:
        console.say(f"+ {name} {versions[name]}")
    for name, old in done.replaced.items():
        console.say(f"~ {name} {old} -> {versions[name]}")
    if not done.new and not done.replaced:
        console.say(f"all {len(done.unchanged)} distributions are there already")
