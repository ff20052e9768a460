"""What `--compile` would add to an image, and save at each start: from a sample, without compiling all.

Which modules a start imports is read from the import statements that run when a module does: those at its top level,
also under `if`, `try` and `with`, but not those in functions or for type checkers alone. The time is that of compiling
a sample of them here, so that it holds for machines like this one. Where this Python was built without the
optimisations that distributions and official images build theirs with, as version managers often do, it is taken for as
fast as theirs.
"""

from __future__ import annotations

import logging
import marshal
import re
import sys
import sysconfig
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from wain.digest import Digest
from wain.errors import WainError
from wain.install import InstallPlan, PlannedFile
from wain.oci import JSON
from wain.store import Store, recipe_key

log = logging.getLogger(__name__)

_SAMPLE_BYTES = 500_000
_SAMPLE_FILES = 32
_MAX_MODULE_BYTES = 4 << 20
_MAX_MODULES = 20_000
_PLAIN_TIMES = 1.35
"""How many times as long a Python without profile-guided optimisation compiles (3.11 and 3.13, against Debian's)."""
_MEMO = "start-estimate"
_IMPORT = re.compile(r"(?:import\s+(?P<names>[^#;]+)|from\s+(?P<base>[.\w]+)\s+import\s+(?P<what>\(?[^#;]*))")
_BLOCK = re.compile(r"(if|elif|else|try|except|finally|with|for|while)\b")
_NOT_RUN = re.compile(r"(if|elif)\b.*(TYPE_CHECKING|__name__|win32|os\.name == .nt)")


class StartEstimate(Struct, frozen=True, kw_only=True):
    """What bytecode for the wheels of a plan would do."""

    modules: int
    """How many modules of wheels a start imports."""
    source_bytes: int
    """Their size together."""
    added_bytes: int
    """How much larger the image would be, unpacked."""
    added_compressed_bytes: int
    """And how much more would be pulled."""
    saved_seconds: float
    """Of processor time, at each start."""


def estimate_start(plan: InstallPlan, sources: Mapping[str, bytes], *, store: Store) -> StartEstimate:
    """The estimate for a program; remembered by its wheels and its own imports.

    :param sources: the program's own modules that a start runs, dotted name -> source.
    """
    names = _own_imports(sources)
    key = _key((wheel.digest for wheel in plan.wheels), names)
    if (known := _remembered(key, store)) is not None:
        return known
    modules = dict(_modules(plan))
    reached = _reached(modules, names)
    found = _measure(list(reached.values()), [file for _, (file, _) in sorted(modules.items())])
    value: dict[str, JSON] = {name: getattr(found, name) for name in StartEstimate.__struct_fields__}
    store.put_memo(_MEMO, key, value)
    return found


def known_estimate(wheels: Iterable[Digest], sources: Mapping[str, bytes], *, store: Store) -> StartEstimate | None:
    """What `estimate_start` found earlier for wheels with these digests; None where it did not."""
    return _remembered(_key(wheels, _own_imports(sources)), store)


def _own_imports(sources: Mapping[str, bytes]) -> list[str]:
    return sorted({name for path, source in sources.items() for name in imported(source, path, is_package=False)})


def _key(wheels: Iterable[Digest], names: Sequence[str]) -> Digest:
    digests: list[JSON] = [*sorted(set(wheels))]
    return recipe_key({"recipe": "start-estimate/2", "wheels": digests, "imports": [*names]})


def imported(source: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    """The dotted names that a module imports when it runs; of `from a import b`, both `a` and `a.b`.

    >>> list(imported(b"import a.b, c as d\\ndef f():\\n    import e", "m", is_package=False))
    ['a.b', 'c']
    """
    package = module if is_package else module.rpartition(".")[0]
    for statement in _statements(source.decode("utf-8", "replace")):
        match = _IMPORT.match(statement)
        if match is None:
            continue
        if match["names"] is not None:
            for part in match["names"].split(","):
                if name := part.split(" as ")[0].strip():
                    yield name
            continue
        base = match["base"]
        dots = len(base) - len(base.lstrip("."))
        if dots:
            parents = package.split(".") if package else []
            if dots - 1 > len(parents):
                continue
            kept = parents[: len(parents) - (dots - 1)]
            base = ".".join([*kept, *([base.lstrip(".")] if base.lstrip(".") else [])])
        if not base:
            continue
        yield base
        for part in match["what"].strip("() \t").split(","):
            name = part.split(" as ")[0].strip()
            if name.isidentifier():
                yield f"{base}.{name}"


def _statements(text: str) -> Iterator[str]:
    """The import statements that run with the module, each on one line."""
    skipped_indent: int | None = None
    joined = ""
    for raw in text.splitlines():
        line = raw.partition("#")[0].rstrip() if "#" in raw else raw.rstrip()
        if joined:
            joined += " " + line.strip().rstrip("\\")
            if ")" in line or ("(" not in joined and not line.endswith("\\")):
                yield joined
                joined = ""
            continue
        if not line:
            continue
        words = line.lstrip()
        indent = len(line) - len(words)
        if skipped_indent is not None and indent > skipped_indent:
            continue
        skipped_indent = None
        if words.startswith(("import ", "from ")):
            if ("(" in words and ")" not in words) or words.endswith("\\"):
                joined = words.rstrip("\\")
            else:
                yield words
        elif (
            _NOT_RUN.match(words)
            or (words.endswith(":") and not _BLOCK.match(words))
            or words.startswith(("def ", "class ", "async ", "@"))
        ):
            skipped_indent = indent
    if joined:
        yield joined


def _modules(plan: InstallPlan) -> Iterator[tuple[str, tuple[PlannedFile, bool]]]:
    roots = sorted({plan.scheme.purelib + "/", plan.scheme.platlib + "/"}, key=len, reverse=True)
    for file in plan.files:
        if not file.path.endswith(".py") or file.size_bytes > _MAX_MODULE_BYTES:
            continue
        root = next((root for root in roots if file.path.startswith(root)), None)
        if root is None:
            continue
        name = file.path[len(root) : -3].replace("/", ".")
        is_package = name.endswith(".__init__")
        yield name.removesuffix(".__init__"), (file, is_package)


def _reached(modules: Mapping[str, tuple[PlannedFile, bool]], names: Iterable[str]) -> dict[str, PlannedFile]:
    reached: dict[str, PlannedFile] = {}
    waiting = list(names)
    while waiting and len(reached) < _MAX_MODULES:
        name = waiting.pop()
        while name:  # with a module, the packages that it is in
            if name in modules and name not in reached:
                file, is_package = modules[name]
                reached[name] = file
                if source := _source(file):
                    waiting += imported(source, name, is_package=is_package)
            name = name.rpartition(".")[0]
    return reached


def _source(file: PlannedFile) -> bytes:
    if file.member is None:
        return file.data or b""
    try:
        return file.wheel.read(file.member)
    except WainError as error:
        log.debug("%s: %s", file.path, error)
        return b""


def _measure(reached: Sequence[PlannedFile], every: Sequence[PlannedFile]) -> StartEstimate:
    # Two samples: what a start imports is other code than all that is there, tests for instance.
    of_start = _compile(_sample(reached))
    of_all = _compile(_sample(every))
    seconds = of_start.seconds if _is_optimised() else of_start.seconds / _PLAIN_TIMES
    start_bytes = sum(file.size_bytes for file in reached)
    all_bytes = sum(file.size_bytes for file in every)
    return StartEstimate(
        modules=len(reached),
        source_bytes=start_bytes,
        added_bytes=all_bytes * of_all.code_bytes // max(of_all.source_bytes, 1),
        added_compressed_bytes=all_bytes * of_all.compressed_bytes // max(of_all.source_bytes, 1),
        saved_seconds=round(max(seconds, 0.0) * start_bytes / max(of_start.source_bytes, 1), 3),
    )


def _is_optimised() -> bool:
    """Whether this Python was built as distributions and official images build theirs."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    return arguments is None or "--enable-optimizations" in arguments or sys.base_prefix == "/usr"


class _Sums(Struct, kw_only=True):
    source_bytes: int = 0
    code_bytes: int = 0
    compressed_bytes: int = 0
    seconds: float = 0.0


def _compile(sample: Sequence[PlannedFile]) -> _Sums:
    sums = _Sums()
    for file in sample:
        source = _source(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                began = time.thread_time()
                code = compile(source, "/" + file.path, "exec", dont_inherit=True, optimize=0)
                compiled = time.thread_time() - began
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            continue
        data = marshal.dumps(code)
        began = time.thread_time()
        marshal.loads(data)  # noqa: S302 - what was marshalled the line before
        sums.seconds += compiled - (time.thread_time() - began)
        sums.source_bytes += len(source)
        sums.code_bytes += len(data) + 16
        sums.compressed_bytes += len(zlib.compress(data, 6))
    return sums


def _sample(files: Sequence[PlannedFile]) -> list[PlannedFile]:
    """Files that are spread over all, of all sizes, of a limited size together."""
    ordered = sorted((file for file in files if file.size_bytes), key=lambda file: file.size_bytes)
    total = sum(file.size_bytes for file in ordered)
    if total <= _SAMPLE_BYTES:
        return ordered
    # One for each step of the sum of sizes: large files, which are most of the bytes, have their share.
    step = total / _SAMPLE_FILES
    found: list[PlannedFile] = []
    passed, taken = 0, 0
    for file in ordered:
        passed += file.size_bytes
        if passed >= step * (len(found) + 1) and taken + file.size_bytes <= 3 * _SAMPLE_BYTES:
            found.append(file)
            taken += file.size_bytes
    return found or ordered[:1]


def _remembered(key: Digest, store: Store) -> StartEstimate | None:
    memo = store.memo(_MEMO, key)
    if memo is None:
        return None
    try:
        return StartEstimate(
            modules=int(memo["modules"]),  # type: ignore[arg-type]
            source_bytes=int(memo["source_bytes"]),  # type: ignore[arg-type]
            added_bytes=int(memo["added_bytes"]),  # type: ignore[arg-type]
            added_compressed_bytes=int(memo["added_compressed_bytes"]),  # type: ignore[arg-type]
            saved_seconds=float(memo["saved_seconds"]),  # type: ignore[arg-type]
        )
    except (KeyError, TypeError, ValueError):
        return None
