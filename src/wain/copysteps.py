"""COPY and ADD of a Dockerfile, done on a stage: sources named, flags read, history written.

Source: Dockerfile reference (COPY, ADD).
"""

from __future__ import annotations

import re

from wain.actions import NeedsEngine
from wain.copying import CopyOptions, NotFoundInSource, copy_sources, link_in, put_data, put_file
from wain.dockerfile import Instruction
from wain.errors import DockerfileError
from wain.filework import CommandFails, user_ids
from wain.index_credentials import strip_credentials
from wain.remote_files import remote_file, remote_name
from wain.stage import Sources, StageBuild
from wain.steps import copy_needs_engine, is_remote
from wain.tree import Tree, joined


def _octal_mode(text: str, stage: StageBuild, instruction: Instruction) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise stage.fail(instruction, f"--chmod={text} is no octal mode", "Write --chmod=755.")
    return int(text, 8)


def _heredoc_text(text: str, stage: StageBuild, instruction: Instruction) -> str:
    """A here-document with its variables replaced; quotes are text like any other."""
    hidden = text.replace("'", "\ue000").replace('"', "\ue001")
    value = stage.scope.expand(hidden, instruction).value or ""
    return value.replace("\ue000", "'").replace("\ue001", '"')


def copy(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    """Copy or add files.

    :raises NeedsEngine: when it cannot be done here.
    :raises DockerfileError: when it would fail.
    """
    reason = copy_needs_engine(instruction, stage.scope)
    if reason is not None:
        raise NeedsEngine(reason)
    words = [stage.text(word, instruction) for word in instruction.values]
    *patterns, destination = words
    documents = {heredoc.name: heredoc for heredoc in instruction.heredocs}
    flags = {flag.name: stage.text(flag.value or "", instruction) for flag in instruction.flags}
    options = CopyOptions(
        owner=_owner(flags["chown"], stage, instruction) if "chown" in flags else None,
        mode=_octal_mode(flags["chmod"], stage, instruction) if flags.get("chmod") else None,
        exclude=tuple(
            stage.text(flag.value or "", instruction) for flag in instruction.flags if flag.name == "exclude"
        ),
        parents=_is_on(instruction, "parents"),
        unpacks=instruction.keyword == "ADD",
    )
    is_linked = _is_on(instruction, "link")
    trailing = "/" if destination.endswith(("/", "/.")) or destination in (".", "") else ""
    place = "/" + joined(stage.workdir(), destination) + trailing
    before = stage.tree.mark()
    target = Tree() if is_linked else stage.tree
    told = [instruction.keyword]
    told += [f"--{name}" for name in ("parents",) if options.parents]
    told += [f"--{name}={flags[name]}" for name in ("chown", "chmod") if flags.get(name)]
    files: list[str] = []
    if len(patterns) > 1 and not trailing:
        there = stage.tree.find(place)
        if there is None or there.kind != "directory":
            raise stage.fail(
                instruction, "several sources need a destination that ends in a slash", f"Write {destination}/ ."
            )
    if "checksum" in flags and (len(patterns) != 1 or not is_remote(patterns[0])):
        raise stage.fail(instruction, "--checksum is for one file from the web", "Leave it out.")
    try:
        for raw, pattern in zip(instruction.values, patterns, strict=False):
            document = documents.get(raw.lstrip("<-").strip("'\"")) if raw.startswith("<<") else None
            if document is not None:
                text = _heredoc_text(document.text, stage, instruction) if document.expand else document.text
                data = text.encode("utf-8", "surrogateescape")
                put_data(target, document.name, data, place, options)
                told.append(f"<<{document.name}")
            elif instruction.keyword == "ADD" and is_remote(pattern):
                node = remote_file(
                    pattern, checksum=flags.get("checksum"), store=stage.tools.store, transport=stage.tools.transport
                )
                put_file(target, remote_name(pattern), node, place, options)
                told.append(strip_credentials(pattern))
            else:
                files.append(pattern)
                told.append(pattern)
        if files:
            origin = flags.get("from")
            source = sources.named(origin) if origin else sources.context()
            copy_sources(source, files, target, place, options)
    except NotFoundInSource as error:
        where = f"in {flags['from']}" if flags.get("from") else "in the context"
        raise stage.fail(
            instruction,
            f"there is no {error} {where}",
            "Mend the path; what .dockerignore names is not in the context.",
        ) from error
    except DockerfileError as error:
        raise stage.fail(instruction, error.message, error.hint) from error
    if is_linked:
        link_in(target, stage.tree)
    stage.record(" ".join([*told, destination]) + " # buildkit", before)


def _is_on(instruction: Instruction, name: str) -> bool:
    value = instruction.flag(name)
    return value is not None and value.lower() not in ("false", "0", "f")


def _owner(text: str, stage: StageBuild, instruction: Instruction) -> tuple[int, int]:
    passwd, group = stage.accounts()
    try:
        uid, gid = user_ids(text, passwd, group)
    except CommandFails as error:
        raise stage.fail(
            instruction, f"--chown={text}: {error}", "Make the user in a base, or give its number."
        ) from error
    if gid is None:
        name = text.partition(":")[0]
        key = 2 if name.isdigit() else 0
        entry = next(
            (line.split(":") for line in passwd.splitlines() if line.count(":") >= 6 and line.split(":")[key] == name),
            None,
        )
        gid = int(entry[3]) if entry is not None and not name.isdigit() else (uid or 0)
    return uid or 0, gid
