"""A RUN's mounts in its stage's tree: put there for its commands, and taken out after them.

Sources: Dockerfile reference (RUN --mount); of the folders that BuildKit makes for a mount, those stay that are used.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from msgspec import Struct

from wain.actions import NeedsEngine
from wain.dockerfile import Instruction
from wain.filework import CommandFails
from wain.mounts import Mount, mounts
from wain.stage import Sources, StageBuild
from wain.tree import Data, Node, directory, joined


class Mounted(Struct, frozen=True, kw_only=True):
    """One mount while a RUN is done."""

    path: str
    node: Node
    """What stands there."""
    as_it_was: Node
    """A copy of `node`, which changes leave alone."""
    hidden: Node | None
    """What stands there without the mount."""
    made: tuple[str, ...]
    """The folders that were made for it, the deepest first."""
    readonly: bool


def put_mounts(
    stage: StageBuild, instruction: Instruction, sources: Sources, values: dict[str, str]
) -> tuple[Mounted, ...]:
    """Puts what a RUN mounts where it mounts it; secrets that are variables go into `values`.

    :raises NeedsEngine: for what cannot be mounted here.
    :raises DockerfileError: when a source or a secret is not there.
    """
    found: list[tuple[str, Node, bool]] = []
    for mount in mounts(instruction):
        if mount.kind == "secret":
            found += _secret(stage, instruction, mount, values)
        elif mount.kind == "bind":
            found.append(_bind(stage, instruction, mount, sources))
        elif mount.kind in {"cache", "tmpfs"}:
            if mount.from_ is not None:
                raise NeedsEngine(f"RUN --mount=type={mount.kind},from= needs a container")
            made = directory(mode=_octal(stage, instruction, mount.mode, 0o755))
            made.uid, made.gid = _number(mount.uid), _number(mount.gid)
            found.append((_target(stage, instruction, mount), made, False))
    mounted = []
    for target, node, readonly in sorted(found, key=lambda item: item[0].count("/")):
        mounted.append(_put(stage, target, node, readonly))
    return tuple(mounted)


def take_out(stage: StageBuild, mounted: Sequence[Mounted]) -> None:
    """Puts back what was there before, and removes the folders that were made and are empty.

    :raises CommandFails: when something changed that is mounted to be read.
    """
    tree = stage.tree
    for mount in reversed(mounted):
        if mount.readonly and not _is_same(tree.get(mount.path), mount.as_it_was):
            raise CommandFails(f"/{mount.path} is mounted to be read only, and a command writes to it")
        if mount.hidden is not None:
            tree.put(mount.path, mount.hidden)
            continue
        if tree.get(mount.path) is not None:
            tree.remove(mount.path)
        for folder in mount.made:
            node = tree.get(folder)
            if node is not None and not node.children:
                tree.remove(folder)


def _put(stage: StageBuild, target: str, node: Node, readonly: bool) -> Mounted:
    tree = stage.tree
    path = tree.resolve(joined(stage.workdir(), target))
    if not path:
        raise NeedsEngine("a mount over the root needs a container")
    parts = path.split("/")
    parents = ["/".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    made = tuple(parent for parent in parents if tree.get(parent) is None)
    hidden = tree.get(path)
    tree.make_folders(posixpath.dirname(path))
    own = node.copied(0)
    tree.put(path, own)
    return Mounted(path=path, node=own, as_it_was=own.copied(0), hidden=hidden, made=made, readonly=readonly)


def _is_same(now: Node | None, before: Node) -> bool:
    return (
        now is not None
        and now.same_attributes(before)
        and now.content is before.content
        and now.children == before.children
    )


def _target(stage: StageBuild, instruction: Instruction, mount: Mount) -> str:
    if not mount.target:
        raise stage.fail(instruction, f"--mount=type={mount.kind} has no target", "Write target=/path.")
    return stage.text(mount.target, instruction)


def _bind(stage: StageBuild, instruction: Instruction, mount: Mount, sources: Sources) -> tuple[str, Node, bool]:
    target = _target(stage, instruction, mount)
    origin = stage.text(mount.from_, instruction) if mount.from_ else None
    tree = sources.named(origin) if origin else sources.context()
    source = stage.text(mount.source or "/", instruction)
    node = tree.get(tree.resolve(source))
    if node is None or node.kind not in ("file", "directory"):
        raise stage.fail(
            instruction,
            f"--mount: there is no {source} in {origin or 'the context'}",
            "Mend the path; what .dockerignore names is not in the context.",
        )
    return target, node, mount.readonly


def _secret(
    stage: StageBuild, instruction: Instruction, mount: Mount, values: dict[str, str]
) -> list[tuple[str, Node, bool]]:
    name = stage.text(mount.id or posixpath.basename(mount.target or ""), instruction)
    data = stage.tools.secrets.get(name)
    if data is None:
        if mount.required:
            raise stage.fail(instruction, f"the secret {name} is not given", f"Give it: --secret id={name},src=FILE.")
        return []
    if mount.env is not None:
        values[mount.env] = data.decode("utf-8", "surrogateescape")
        if mount.target is None:
            return []
    node = Node(kind="file", mode=_octal(stage, instruction, mount.mode, 0o400), size_bytes=len(data))
    node.content, node.uid, node.gid = Data(data), _number(mount.uid), _number(mount.gid)
    return [(stage.text(mount.target or f"/run/secrets/{name}", instruction), node, False)]


def _octal(stage: StageBuild, instruction: Instruction, text: str | None, default: int) -> int:
    if text is None:
        return default
    try:
        return int(text, 8) & 0o7777
    except ValueError as error:
        raise stage.fail(instruction, f"--mount: {text!r} is no octal mode", "Write mode=0755.") from error


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
