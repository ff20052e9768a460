"""Bytecode of installed modules: a layer of its own, the same bytes each time.

Marshalled bytecode depends on what the compiling process has seen before: which strings are interned shows in it.
So the modules of a wheel are compiled in groups that are fixed by the wheel alone, each group in a process forked from
one that has compiled nothing. Hashes of strings are seeded, for frozen sets are written in the order of their hashes.

Sources: PEP 552, unchecked hash-based pycs; PEP 3147, PYC repository directories.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from wain.digest import Digest
from wain.errors import PythonError, WainError
from wain.install import InstallPlan, PlannedFile, Scheme
from wain.interpreters import host_interpreter
from wain.layers import Entry, Layer, files_layer, stored_layer
from wain.oci import JSON
from wain.platforms import Platform
from wain.store import Store, recipe_key

if TYPE_CHECKING:
    from wain.bases import BaseFacts
    from wain.image import Image
    from wain.wheels import Wheel

log = logging.getLogger(__name__)

RECIPE = 1
"""Changes with whatever changes the bytes that the same wheel and Python give."""
_GROUP_BYTES = 1 << 20
_GROUP_FILES = 64
MAX_SOURCE_BYTES = 32 << 20
_TIMEOUT_SECONDS = 1800.0
_MAX_WORKERS = 8
_FOLDER_MEMO = "bytecode"
_LAYER_MEMO = "bytecode-layer"

_SCRIPT = """
import os, py_compile, sys, warnings
try:
    import resource
except ImportError:
    resource = None
warnings.simplefilter("ignore")
sys.setrecursionlimit(1000)
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
root = sys.argv[1]
for group in sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\\n\\n"):
    child = os.fork()
    if not child:
        try:
            if resource:
                resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
                resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for line in group.splitlines():
                number, _, name = line.partition("\\t")
                source = os.path.join(root, number)
                try:
                    py_compile.compile(source, source + "c", name, doraise=True, optimize=0, invalidation_mode=mode)
                except Exception:
                    pass
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


class Compiler(Struct, frozen=True, kw_only=True):
    """A Python of the target's minor version that runs on this machine."""

    version: str
    """Its full version, `3.13.1`: part of every key."""
    command: tuple[str, ...]
    environ: Mapping[str, str]


@contextmanager
def compiler_for(facts: BaseFacts, image: Image, store: Store) -> Iterator[Compiler]:
    """The compiler for a base: a Python of its minor on this machine, else the base's own, run from a folder
    that lives as long as the context.

    :raises PythonError: when there is neither.
    """
    minor = facts.python.short
    if found := host_interpreter(minor, store):
        yield Compiler(version=str(found.target.python), command=(found.path,), environ={})
        return
    if facts.platform.machine != Platform.host().machine or sys.platform != "linux":
        raise PythonError(
            f"no Python {minor} on this machine, and the base's is for {facts.platform}",
            hint=f"Install Python {minor} (`uv python install {minor}` does), or leave out --compile.",
        )
    with tempfile.TemporaryDirectory(prefix="wain-python-") as folder:
        yield _from_image(facts, image, Path(folder))


def compiler_version(facts: BaseFacts, store: Store) -> str:
    """The version of the Python that `compiler_for` would give, without unpacking anything."""
    found = host_interpreter(facts.python.short, store)
    return str(found.target.python if found else facts.python)


def bytecode_layer_key(digests: Iterable[Digest], scheme: Scheme, version: str) -> Digest:
    """The recipe key of the bytecode of wheels: known before any wheel is at hand."""
    wheels: list[JSON] = [*sorted(set(digests))]
    return recipe_key(
        {"recipe": f"bytecode/{RECIPE}", "scheme": {**scheme.to_json()}, "python": version, "wheels": wheels}
    )


def remembered_bytecode(key: Digest, *, store: Store) -> Layer | None:
    """The layer that the store remembers under `bytecode_layer_key` and still has."""
    memo = store.memo(_LAYER_MEMO, key)
    if memo is None:
        return None
    try:
        digest, diff_id = Digest(str(memo["digest"])), Digest(str(memo["diff_id"]))
    except (KeyError, WainError):
        return None
    size_bytes, unpacked_bytes = memo.get("size_bytes"), memo.get("unpacked_bytes")
    if not isinstance(size_bytes, int) or not isinstance(unpacked_bytes, int) or not store.has(digest):
        return None
    return stored_layer(
        digest,
        diff_id=diff_id,
        size_bytes=size_bytes,
        store=store,
        unpacked_bytes=unpacked_bytes,
        created_by=str(memo.get("created_by", "")),
        annotations={"dev.wain.recipe-key": key},
    )


def bytecode_layer(plan: InstallPlan, compiler: Compiler, *, store: Store) -> Layer:
    """The layer with the bytecode of every module that the plan puts into site-packages.

    What the store has of a wheel from earlier is not compiled again. A module that does not compile has none.

    :raises PythonError: when the interpreter does not run.
    :raises WheelError: when a wheel is damaged.
    """
    key = bytecode_layer_key((wheel.digest for wheel in plan.wheels), plan.scheme, compiler.version)
    if known := remembered_bytecode(key, store=store):
        return known
    entries: list[Entry] = []
    for wheel, files in _modules(plan):
        entries += wheel_bytecode(wheel, files, compiler, store=store)
    entries += _folders(entries, plan)
    created_by = f"wain: bytecode of {len(plan.wheels)} wheels by Python {compiler.version}"
    layer = files_layer(
        entries, store=store, created_by=created_by, kind="bytecode", annotations={"dev.wain.recipe-key": key}
    )
    store.put_memo(
        _LAYER_MEMO,
        key,
        {
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size_bytes": layer.size_bytes,
            "unpacked_bytes": layer.unpacked_bytes or 0,
            "created_by": created_by,
        },
        [layer.digest],
    )
    return layer


def compile_ahead(plans: Iterable[InstallPlan], compiler: Compiler, *, store: Store) -> None:
    """Compiles what the store lacks for the `bytecode_layer`s of these plans, on all cores, the largest wheels first.

    :raises PythonError: when the interpreter does not run.
    :raises WheelError: when a wheel is damaged.
    """
    jobs = [(wheel, files) for plan in plans for wheel, files in _modules(plan)]
    sizes = {wheel.digest: sum(file.size_bytes for file in files) for wheel, files in jobs}
    jobs.sort(key=lambda job: -sizes[job[0].digest])
    cores = min(os.cpu_count() or 1, _MAX_WORKERS)
    whole = max(1, sum(sizes.values()))

    def work(job: tuple[Wheel, list[PlannedFile]]) -> None:
        wheel, files = job
        # Most wheels keep one core busy; one that is half of all the work has half of the cores.
        share = round(cores * sizes[wheel.digest] / whole)
        wheel_bytecode(wheel, files, compiler, store=store, workers=max(1, share))

    with ThreadPoolExecutor(cores, thread_name_prefix="bytecode") as pool:
        for _ in pool.map(work, jobs):
            pass


def wheel_bytecode(
    wheel: Wheel, files: Sequence[PlannedFile], compiler: Compiler, *, store: Store, workers: int | None = None
) -> list[Entry]:
    """The bytecode of these modules of one wheel, as entries in the order of their paths.

    :param workers: processes that compile at a time; None for as many as there are cores.
    :raises PythonError: when the interpreter does not run.
    :raises WheelError: when the wheel is damaged.
    """
    if not files:
        return []
    ordered = sorted(files)
    names = hashlib.sha256("\0".join(file.path for file in ordered).encode("utf-8", "surrogateescape"))
    key = recipe_key(
        {
            "recipe": f"bytecode/{RECIPE}",
            "wheel": wheel.digest,
            "python": compiler.version,
            "paths": names.hexdigest(),
        }
    )
    found = _remembered(key, store)
    if found is None:
        found = _compile(wheel, ordered, compiler, key, store, workers)
    digest, rows = found
    return [
        Entry(path=path, kind="file", size_bytes=size, open_data=_part(store, digest, offset, size))
        for path, offset, size in rows
    ]


def bytecode_path(path: str, minor: str) -> str:
    """Where a module's bytecode is looked for.

    >>> bytecode_path("lib/six.py", "3.13")
    'lib/__pycache__/six.cpython-313.pyc'
    """
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}__pycache__/{name.removesuffix('.py')}.cpython-{minor.replace('.', '')}.pyc"


_Rows = list[tuple[str, int, int]]


def _modules(plan: InstallPlan) -> Iterator[tuple[Wheel, list[PlannedFile]]]:
    roots = tuple({f"{plan.scheme.purelib}/", f"{plan.scheme.platlib}/"})
    found: dict[str, list[PlannedFile]] = {wheel.name: [] for wheel in plan.wheels}
    for file in plan.files:
        if file.path.endswith(".py") and file.path.startswith(roots) and file.size_bytes <= MAX_SOURCE_BYTES:
            found[file.wheel.name].append(file)
    for wheel in plan.wheels:
        yield wheel, found[wheel.name]


def _folders(entries: Sequence[Entry], plan: InstallPlan) -> list[Entry]:
    """The folders that only bytecode needs; those of the modules are in the wheels' layers."""
    parents = {entry.path.rpartition("/")[0] for entry in entries}
    return [Entry(path=path, kind="directory", mode=0o755) for path in sorted(parents - set(plan.folders))]


def _remembered(key: Digest, store: Store) -> tuple[Digest, _Rows] | None:
    memo = store.memo(_FOLDER_MEMO, key)
    if memo is None:
        return None
    try:
        digest = Digest(str(memo["digest"]))
        listed = memo["files"]
        rows: _Rows = []
        assert isinstance(listed, list)
        for row in listed:
            assert isinstance(row, list)
            name, offset, size = row
            assert isinstance(name, str) and isinstance(offset, int) and isinstance(size, int)
            rows.append((name, offset, size))
        path = store.path(digest)
        # Its parts are read singly, so that the whole is looked at here.
        if path is None:
            return None
        if Digest.of_file(path) != digest:
            store.drop(digest)
            return None
    except (KeyError, ValueError, TypeError, AssertionError, OSError, WainError):
        return None
    return digest, rows


def _compile(
    wheel: Wheel, files: Sequence[PlannedFile], compiler: Compiler, key: Digest, store: Store, workers: int | None
) -> tuple[Digest, _Rows]:
    wheel.verify()
    minor = ".".join(compiler.version.split(".")[:2])
    rows: _Rows = []
    with tempfile.TemporaryDirectory(prefix="wain-bytecode-") as name:
        folder = Path(name)
        for number, file in enumerate(files):
            with (folder / str(number)).open("wb") as stream:
                if file.member is None:
                    stream.write(file.data or b"")
                else:
                    stream.writelines(wheel.chunks(file.member))
        compile_files(compiler, folder, [(file.path, file.size_bytes) for file in files], workers=workers)
        with store.writer(kind="bytecode", note=f"bytecode of {wheel.filename} by Python {compiler.version}") as writer:
            offset = 0
            for number, file in enumerate(files):
                try:
                    data = (folder / f"{number}c").read_bytes()
                except FileNotFoundError:
                    log.debug("%s of %s does not compile", file.path, wheel.filename)
                    continue
                writer.write(data)
                rows.append((bytecode_path(file.path, minor), offset, len(data)))
                offset += len(data)
            digest = writer.commit()
    listed: list[JSON] = [[*row] for row in rows]
    store.put_memo(_FOLDER_MEMO, key, {"digest": digest, "files": listed}, [digest])
    return digest, rows


def compile_files(
    compiler: Compiler, folder: Path, files: Sequence[tuple[str, int]], *, workers: int | None = None
) -> None:
    """Compiles the sources that stand in a folder under their numbers; what compiles gets a `c` behind its number.

    :param files: the paths that they have in the image, without a slash in front, and their sizes.
    :param workers: processes at a time; None for as many as there are cores.
    :raises PythonError: when the interpreter does not run.
    """
    groups = list(_groups(files))
    _run(compiler, folder, groups, max(1, min(workers or os.cpu_count() or 1, _MAX_WORKERS, len(groups))))


def _groups(files: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Lines for the script, in groups that depend on the files alone."""
    group: list[str] = []
    size = 0
    for number, (path, size_bytes) in enumerate(files):
        if group and (size > _GROUP_BYTES or len(group) >= _GROUP_FILES):
            yield group
            group, size = [], 0
        # What a traceback shows, so it must be the path in the image. Line breaks no path of a wheel can have.
        group.append(f"{number}\t/{path}")
        size += size_bytes
    if group:
        yield group


def _run(compiler: Compiler, folder: Path, groups: Sequence[list[str]], workers: int) -> None:
    empty = folder / "empty"
    empty.mkdir()
    environ = {
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "PATH": os.defpath,
        **compiler.environ,
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for worker in range(workers):
            # Jobs come from a file: a pipe would have to be fed while errors are read.
            jobs = folder / f"jobs-{worker}"
            text = "\n\n".join("\n".join(group) for group in groups[worker::workers])
            jobs.write_bytes(text.encode("utf-8", "surrogateescape"))
            with jobs.open("rb") as stream:
                process = subprocess.Popen(
                    [*compiler.command, "-S", "-s", "-B", "-c", _SCRIPT, str(folder)],
                    stdin=stream,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environ,
                    cwd=empty,
                )
            running.append(process)
        for process in running:
            _, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
            if process.returncode:
                raise PythonError(
                    f"Python {compiler.version} does not compile: {errors[-500:].decode('utf-8', 'replace').strip()}",
                    hint="Leave out --compile, or install another Python of that version.",
                )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PythonError(
            f"Python {compiler.version} does not compile: {error}",
            hint="Leave out --compile, or install another Python of that version.",
        ) from error
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _part(store: Store, digest: Digest, offset: int, size: int) -> Callable[[], BinaryIO]:
    def read() -> BinaryIO:
        path = store.path(digest)
        if path is None:
            # Says that it is gone, and what to do.
            return store.reader(digest)
        with path.open("rb") as stream:
            stream.seek(offset)
            return io.BytesIO(stream.read(size))

    return read


def _from_image(facts: BaseFacts, image: Image, folder: Path) -> Compiler:
    """The base's interpreter with its libraries and standard library, run through its own loader."""
    from wain.elf import parse_elf
    from wain.rootfs import Rootfs

    minor = facts.python.short
    program = facts.interpreter.strip("/")
    library = f"{facts.prefix.strip('/')}/lib/python{minor}/"

    def keep(path: str, size_bytes: int) -> bool:
        name = path.rpartition("/")[2]
        if path == program or path.endswith("/" + program.rpartition("/")[2]):
            return True
        if path.startswith((library, f"usr/lib/python{minor}/")):
            return path.endswith((".py", ".so")) and "/test/" not in path and "-packages/" not in path
        depth = path.count("/")
        return depth <= 4 and path.startswith(("lib", "usr/lib", "usr/local/lib")) and ".so" in name

    rootfs = Rootfs.of(image.layers, keep=keep)
    data = rootfs.read(program, max_bytes=256 << 20)
    elf = None if data is None else parse_elf(data)
    loader = None if elf is None else _loader_of(data or b"")
    if data is None or loader is None:
        raise PythonError(
            f"{facts.interpreter} of the base cannot be run on this machine",
            hint=f"Install Python {minor} here, or leave out --compile.",
        )
    places = set()
    for path, node in rootfs.walk():
        if node.kind == "symlink" and ".so" in path:
            found = rootfs.find(path)
            node = found[1] if found else node
        if node.kind == "file" and node.data is not None:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(node.data)
            target.chmod(0o700)
            if ".so" in path and not path.startswith(library):
                places.add(target.parent)
    resolved = rootfs.resolve(loader)
    if not (folder / resolved).exists():
        raise PythonError(
            f"the base lacks {loader}, which its Python needs",
            hint=f"Install Python {minor} here, or leave out --compile.",
        )
    return Compiler(
        version=str(facts.python),
        command=(
            str(folder / resolved),
            "--library-path",
            ":".join(sorted(map(str, places))),
            str(folder / program),
        ),
        environ={"PYTHONHOME": str(folder / facts.prefix.strip("/"))},
    )


def _loader_of(data: bytes) -> str | None:
    """The path of a program's loader, PT_INTERP of a 64-bit little-endian ELF file."""
    import struct

    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        return None
    offset, _, _, _, size, count = struct.unpack_from("<QQIHHH", data, 32)
    for number in range(count):
        start = offset + number * size
        if start + 56 > len(data):
            return None
        kind, _, where, _, _, length = struct.unpack_from("<IIQQQQ", data, start)
        if kind == 3:
            return data[where : where + length].split(b"\0")[0].decode("utf-8", "replace")
    return None


def remove_orphans(folder: Path) -> int:
    """Removes bytecode below a folder whose module is gone, and the folders that it leaves empty; says how much."""
    removed = 0
    for cache in [path for path in folder.rglob("__pycache__") if path.is_dir() and not path.is_symlink()]:
        for compiled in cache.glob("*.pyc"):
            module = compiled.name.partition(".")[0]
            if not (cache.parent / f"{module}.py").exists():
                compiled.unlink(missing_ok=True)
                removed += 1
        if not any(cache.iterdir()):
            shutil.rmtree(cache, ignore_errors=True)
    return removed
