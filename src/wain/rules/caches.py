"""What the rules about tools' caches share: which uses leave a cache, and the edits that keep it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from wain.dockerfile import Span
from wain.paths import covers
from wain.rules.rule import Cost, DockerfileSubject, Edit, Finding, Fix, Rule, Run, Use, call_span, stage_severity
from wain.shell import AndOr, Background, Command, Function, Opaque, Statement

# Megabytes of the smallest wheel for x86-64 that releases of many years have: what a cached copy costs at least.
_WHEEL_MEGABYTES = {
    "botocore": 3,
    "cryptography": 2,
    "django": 5,
    "faiss-cpu": 7,
    "gensim": 22,
    "grpcio": 2,
    "jaxlib": 25,
    "llvmlite": 14,
    "lxml": 3,
    "matplotlib": 7,
    "numpy": 12,
    "onnxruntime": 4,
    "opencv-python": 20,
    "opencv-python-headless": 20,
    "pandas": 8,
    "playwright": 30,
    "pyarrow": 15,
    "pyspark": 170,
    "scikit-learn": 5,
    "scipy": 23,
    "spacy": 5,
    "tensorflow": 40,
    "torch": 65,
    "xgboost": 60,
}
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FixMaker = Callable[[DockerfileSubject, Run, Use, tuple[str, ...]], Iterator[Fix]]


def check_tool(
    rule: Rule,
    tool: str,
    subject: DockerfileSubject,
    make_fixes: FixMaker,
    *,
    applies: Callable[[Run, Use], bool] = lambda _run, _use: True,
) -> Iterator[Finding]:
    """A finding for each command of `tool` whose cache stays in a layer that ships, and that `applies` is true of."""
    for run in subject.trace.runs():
        for use in run.uses:
            if use.cache.tool != tool or not applies(run, use):
                continue
            left = run.left(use)
            if not left or missed_mount(run, use) is not None:
                continue
            severity = stage_severity(rule, run, left[0])
            if severity is None:
                continue
            if run.stage.ships == "discarded" and removed_later(subject, run, left[0]):
                continue
            where = enumerated(left)
            cost, estimate = cost_of(use, left)
            only = (
                f" (only in an image built with --target {run.stage.stage.name})" if run.stage.ships == "target" else ""
            )
            yield subject.finding(
                rule,
                call_span(run, use),
                f"{called(use)} {use.cache.verb} leaves its cache in {where}{only}",
                run.holder,
                severity=severity,
                cost=cost,
                estimate=estimate,
                paths=left,
                fixes=tuple(make_fixes(subject, run, use, left)),
            )


def called(use: Use) -> str:
    """The tool by the name that the file calls it by: apt-get, yum, mamba."""
    program = use.call.program
    return program if use.cache.tool in {"apt", "conda", "dnf"} and program else use.cache.tool


def removed_later(subject: DockerfileSubject, run: Run, folder: str) -> bool:
    """Whether a later RUN of the same stage removes the folder: what is copied from the stage then lacks it."""
    runs = run.stage.runs
    return any(
        not removal.branch and covers(removal.pattern, folder)
        for later in runs[runs.index(run) + 1 :]
        for removal in later.removals
    )


def missed_mount(run: Run, use: Use) -> Span | None:
    """The span of a cache mount that was meant for this tool but has another folder as its target."""
    for mounted in run.mounts:
        if mounted.kind != "cache" or mounted.target is None:
            continue
        if is_meant_for(mounted.target, use.cache.tool) and not any(
            run.mount_over(folder) is mounted for one in run.uses for folder in one.cache.folders
        ):
            return mounted.mount.flag.span
    return None


_MEANT = {
    "pip": ("/pip",),
    "uv": ("/uv", "/pip"),
    "poetry": ("/pypoetry", "/poetry"),
    "pdm": ("/pdm",),
    "pipenv": ("/pipenv",),
    "pipx": ("/pip",),
    "conda": ("/pkgs",),
    "pixi": ("/rattler", "/pixi"),
    "npm": ("/.npm", "/npm"),
    "apt": ("/apt", "/archives", "/lists"),
    "apk": ("/apk",),
    "dnf": ("/dnf", "/yum"),
}


def is_meant_for(target: str, tool: str) -> bool:
    """Whether a mount's target looks like the cache folder of a tool."""
    if tool in {"apt", "apk", "dnf"}:
        return False
    name = f"{target}/"
    return any(f"{end}/" in name for end in _MEANT[tool]) or target.endswith("/.cache")


def cost_of(use: Use, left: tuple[str, ...]) -> tuple[Cost, str]:
    """What the cache costs at least, as far as it is known: in bytes and in words."""
    names = {
        match.group().lower().replace("_", "-")
        for value in use.call.argv[1:]
        if value is not None and (match := _REQUIREMENT.match(value))
    }
    known = sorted(name for name in names if name in _WHEEL_MEGABYTES)
    megabytes = 0
    if known and use.cache.tool in {"pip", "uv", "poetry", "pdm", "pipenv"}:
        megabytes = sum(_WHEEL_MEGABYTES[name] for name in known)
    elif any(folder.endswith("/virtualenv") for folder in left):
        megabytes, known = 5, ["pip, unpacked for virtualenv"]
    if not megabytes:
        return Cost(), ""
    size = megabytes * 1_000_000
    # uv's environment may consist of hard links into its cache: what is gone by name is not freed then.
    cost = Cost(apparent=size, reclaimable=0 if use.cache.tool == "uv" else size)
    return cost, f"at least {megabytes} MB ({', '.join(known)})"


def mount_fix(subject: DockerfileSubject, run: Run, *folders: str) -> Iterator[Fix]:
    """Mount a cache over each of the folders."""
    unfit = any(folder.startswith("~") or any(char in folder for char in ", \"'$") for folder in folders)
    if unfit or run.user.uid is None:
        return
    owner = "" if run.user.uid == "0" else f",uid={run.user.uid}"
    at = run.instruction.keyword_end
    text = "".join(f" --mount=type=cache,target={folder}{owner}" for folder in folders)
    yield Fix(
        title=f"mount a cache over {enumerated(folders)}", edits=(Edit(start=at, end=at, text=text),), is_safe=True
    )


def enumerated(words: tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(", ".join(words).rsplit(", ", 1))


def word_fix(run: Run, use: Use, index: int, flag: str) -> Iterator[Fix]:
    """Insert a flag after the argument at `index`."""
    words = use.call.words
    word = words[index] if index < len(words) else None
    if word is None or not use.call.is_editable or word.literal is None:
        return
    text = f', "{flag}"' if run.instruction.is_json else f" {flag}"
    edit = Edit(start=word.span.end, end=word.span.end, text=text)
    yield Fix(title=f"add {flag}", edits=(edit,), is_safe=True)


def env_fix(subject: DockerfileSubject, run: Run, name: str, *, is_safe: bool = True) -> Iterator[Fix]:
    """Set a variable once, at the start of the stage."""
    opening = run.stage.stage.opening
    at = opening.span.end
    edit = Edit(start=at, end=at, text=f"{subject.dockerfile.newline}ENV {name}=1")
    yield Fix(title=f"set {name}=1 for the stage", edits=(edit,), is_safe=is_safe)


def append_fix(
    subject: DockerfileSubject, run: Run, use: Use | None, command: str, *, is_safe: bool = True
) -> Iterator[Fix]:
    """Add a command at the end of the RUN, joined by `&&`."""
    edit = append_edit(subject, run, use, command)
    if edit is not None:
        yield Fix(title=f"add `{command}` at the end of the RUN", edits=(edit,), is_safe=is_safe)


def append_edit(subject: DockerfileSubject, run: Run, use: Use | None, command: str) -> Edit | None:
    """The edit that ends the RUN with `command`; None where the RUN's form does not allow it."""
    script = run.script
    if script is None or not script.is_exact or script.has_errors or run.instruction.is_json:
        return None
    if not script.statements:
        return None
    last = script.statements[-1]
    if not _can_follow(last):
        return None
    if use is not None and "sudo" in use.call.wrappers and run.user.is_root is not True:
        command = f"sudo {command}"
    elif use is not None and use.call.user is not None and use.call.user != run.user.name:
        return None
    dockerfile = subject.dockerfile
    newline = dockerfile.newline
    at = last.span.end
    if run.instruction.heredocs:
        if "\n" not in script.text or script.source_map is None or "<<" in script.text:
            return None
        first = run.instruction.heredocs[0].span
        if not (first.start <= at <= first.end):
            return None
        return Edit(start=at, end=at, text=f"{newline}{command}")
    line, _ = dockerfile.position(at)
    text = dockerfile.line_text(line)
    indent = text[: len(text) - len(text.lstrip())]
    # `echo a # note` ends with a comment: only what stands before it may be added to.
    if line == run.instruction.line or not indent:
        return Edit(start=at, end=at, text=f" && {command}")
    if text.lstrip().startswith("&&"):
        return Edit(start=at, end=at, text=f" {dockerfile.escape}{newline}{indent}&& {command}")
    return Edit(start=at, end=at, text=f" && {dockerfile.escape}{newline}{indent}{command}")


def _can_follow(statement: Statement) -> bool:
    if isinstance(statement, Background | Function | Opaque):
        return False
    if isinstance(statement, AndOr):
        return _can_follow(statement.right)
    if isinstance(statement, Command):
        return not (statement.words and statement.words[0].literal in {"exec", "exit", "return", "trap"})
    return True
