"""The commands on files that a RUN may have, done on a tree: mkdir, rm, rmdir, ln, cp, mv, chmod, chown, chgrp, touch.

Sources: POSIX.1-2024 and the manual of GNU coreutils.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from wain.actions import FileCommand, NeedsEngine
from wain.ignore import go_pattern
from wain.tree import Data, Node, Tree, directory, joined, parts_of


class CommandFails(Exception):
    """A command that would fail when it were run; the message is the reason."""


class Actor(Struct, frozen=True, kw_only=True):
    """Who runs a command, and with which users and groups the names in it are looked up."""

    uid: int
    gid: int
    cwd: str
    passwd: str
    group: str
    now: int
    """Of new files, in seconds since the epoch."""


def user_ids(text: str, passwd: str, group: str) -> tuple[int | None, int | None]:
    """uid and gid of `user[:group]`, names or numbers; None for a part that is empty.

    :raises CommandFails: when a name is not known.
    """
    user_text, colon, group_text = text.partition(":")
    uid: int | None = None
    gid: int | None = None
    if user_text.isdigit():
        uid = int(user_text)
    elif user_text:
        entry = next((line.split(":") for line in passwd.splitlines() if line.startswith(f"{user_text}:")), None)
        if entry is None or len(entry) < 4:
            raise CommandFails(f"there is no user {user_text}")
        uid = int(entry[2])
        if colon and not group_text:
            gid = int(entry[3])
    if group_text.isdigit():
        gid = int(group_text)
    elif group_text:
        found = next((line.split(":") for line in group.splitlines() if line.startswith(f"{group_text}:")), None)
        if found is None or len(found) < 3:
            raise CommandFails(f"there is no group {group_text}")
        gid = int(found[2])
    return uid, gid


def expand_pattern(tree: Tree, pattern: str, cwd: str) -> list[str]:
    """The paths that a shell makes of a pattern, as it writes them, sorted; the pattern itself where nothing fits."""
    is_absolute = pattern.startswith("/")
    parts = parts_of(pattern)

    def search(folder: str, index: int, written: str) -> Iterator[str]:
        part = parts[index]
        last = index + 1 == len(parts)
        node = tree.find(folder)
        if node is None or node.children is None:
            return
        if not any(char in part for char in "*?["):
            names = [part] if part in node.children or part == ".." else []
        else:
            try:
                regex = re.compile(go_pattern(part.replace("[!", "[^")), re.DOTALL)
            except re.error:
                return
            names = [
                name
                for name in sorted(node.children)
                if regex.fullmatch(name) and (not name.startswith(".") or part.startswith("."))
            ]
        for name in names:
            here = f"{written}{name}"
            if last:
                yield here
            else:
                yield from search(f"{folder}/{name}", index + 1, f"{here}/")

    found = list(search("/" if is_absolute else cwd, 0, "/" if is_absolute else "")) if parts else []
    return found or [pattern]


def do(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    """Does one command.

    :raises CommandFails: when it would fail.
    :raises NeedsEngine: when what it would do is not known here.
    """
    _COMMANDS[action.name](tree, action, operands, actor)


def may_write(tree: Tree, folder: str, actor: Actor) -> None:
    """:raises CommandFails: when a folder is not its user's to write to."""
    node = tree.get(folder)
    if actor.uid == 0 or node is None:
        return
    shift = 6 if node.uid == actor.uid else 3 if node.gid == actor.gid else 0
    if not node.mode >> shift & 2:
        raise CommandFails(f"user {actor.uid} may not write to /{folder}")


def _must_own(node: Node, path: str, actor: Actor) -> None:
    if actor.uid not in (0, node.uid):
        raise CommandFails(f"/{path} is not user {actor.uid}'s")


def _place(tree: Tree, path: str, actor: Actor) -> str:
    """The real path of an operand whose last part is not followed.

    :raises CommandFails: when its folder is not there.
    """
    written = path.rstrip("/") or "/"
    resolved = tree.resolve(joined_raw(actor.cwd, written), follow_last=False)
    parent = tree.get(posixpath.dirname(resolved))
    if parent is None or parent.kind != "directory":
        raise CommandFails(f"{path}: there is no such folder")
    return resolved


def joined_raw(cwd: str, path: str) -> str:
    """A path with what it is relative to, `..` kept, for links stand in the way of taking it out."""
    return path if path.startswith("/") else f"{cwd}/{path}"


def _mkdir(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    mode = 0o755 if action.mode is None else _octal(action.mode)
    for operand in operands:
        path = tree.resolve(joined_raw(actor.cwd, operand))
        there = tree.get(path)
        if there is not None:
            if "p" in action.flags and there.kind == "directory":
                continue
            raise CommandFails(f"mkdir: {operand} is there already")
        done = ""
        parts = parts_of(path)
        for number, part in enumerate(parts):
            before = done
            done = f"{done}/{part}".strip("/")
            node = tree.get(done)
            if node is not None:
                if node.kind != "directory":
                    raise CommandFails(f"mkdir: /{done} is no folder")
                continue
            is_last = number + 1 == len(parts)
            if not is_last and "p" not in action.flags:
                raise CommandFails(f"mkdir: {operand}: there is no such folder")
            may_write(tree, before, actor)
            made = directory(mode=mode if is_last else 0o755, uid=actor.uid, gid=actor.gid, mtime=actor.now)
            _inherit_group(tree, before, made)
            tree.put(done, made)


def _inherit_group(tree: Tree, folder: str, made: Node) -> None:
    parent = tree.get(folder)
    if parent is not None and parent.mode & 0o2000:
        made.gid = parent.gid
        if made.kind == "directory":
            made.mode |= 0o2000


def _octal(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", text):
        raise NeedsEngine(f"mkdir -m {text} has to be run")
    return int(text, 8)


def _rm(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    recursive = bool(action.flags & {"r", "R"})
    for operand in operands:
        if operand.rstrip("/").rpartition("/")[2] in (".", "..") or not parts_of(operand):
            raise CommandFails(f"rm refuses to remove {operand}")
        try:
            path = _place(tree, operand, actor)
        except CommandFails:
            if "f" in action.flags:
                continue
            raise
        node = tree.get(path)
        if node is None:
            if "f" in action.flags:
                continue
            raise CommandFails(f"rm: {operand} is not there")
        if operand.endswith("/") and node.kind == "symlink":
            raise CommandFails(f"rm: {operand} is a link")
        if node.kind == "directory" and not recursive and not ("d" in action.flags and not node.children):
            raise CommandFails(f"rm: {operand} is a folder")
        may_write(tree, posixpath.dirname(path), actor)
        if actor.uid and node.kind == "directory":
            for below, child in tree.walk(path):
                if child.kind == "directory" and child.children:
                    may_write(tree, below, actor)
            if node.children:
                may_write(tree, path, actor)
        tree.remove(path)


def _rmdir(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    for operand in operands:
        path = _place(tree, operand, actor)
        node = tree.get(path)
        if node is None or node.kind != "directory" or node.children or "p" in action.flags:
            raise CommandFails(f"rmdir: {operand} is no empty folder")
        may_write(tree, posixpath.dirname(path), actor)
        tree.remove(path)


def _into(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> list[tuple[str, str]]:
    """Sources of cp, mv and ln with the place of each."""
    *sources, last = operands
    real = tree.resolve(joined_raw(actor.cwd, last))
    node = tree.get(real)
    is_folder = node is not None and node.kind == "directory" and "T" not in action.flags
    if is_folder and action.name == "ln" and "n" in action.flags:
        itself = tree.get(tree.resolve(joined_raw(actor.cwd, last), follow_last=False))
        is_folder = itself is None or itself.kind != "symlink"
    if not is_folder and len(sources) > 1:
        raise CommandFails(f"{action.name}: {last} is no folder")
    if not is_folder and last.endswith("/"):
        first = tree.get(tree.resolve(joined_raw(actor.cwd, sources[0])))
        if first is None or first.kind != "directory" or action.name == "ln":
            raise CommandFails(f"{action.name}: {last} is no folder")
    if is_folder:
        return [(source, f"{real}/{source.rstrip('/').rpartition('/')[2]}".lstrip("/")) for source in sources]
    return [(sources[0], _place(tree, last, actor))]


def _ln(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    for target, place in _into(tree, action, operands, actor):
        there = tree.get(place)
        if there is not None and ("f" not in action.flags or there.kind == "directory"):
            raise CommandFails(f"ln: /{place} is there already")
        may_write(tree, posixpath.dirname(place), actor)
        tree.put(
            place,
            Node(kind="symlink", mode=0o777, uid=actor.uid, gid=actor.gid, target=target, mtime=actor.now),
        )


def _cp(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    archive = "a" in action.flags
    recursive = archive or bool(action.flags & {"r", "R"})
    keeps = archive or "p" in action.flags
    for source, place in _into(tree, action, operands, actor):
        written = joined_raw(actor.cwd, source)
        follows = not recursive and "d" not in action.flags
        real = tree.resolve(written, follow_last=follows or source.endswith("/") or "L" in action.flags)
        node = tree.get(real)
        if node is None:
            raise CommandFails(f"cp: {source} is not there")
        if node.kind == "directory":
            if not recursive:
                raise CommandFails(f"cp: {source} is a folder and -r was not given")
            if place == real or place.startswith(f"{real}/"):
                raise CommandFails(f"cp: {source} cannot be copied into itself")
        if "L" in action.flags and node.kind == "directory":
            raise NeedsEngine("cp -L of a folder has to be run")
        if source.rstrip("/").endswith(("/.", "..")) or source in (".", "./"):
            place = posixpath.normpath(f"/{place}").lstrip("/")
        _copy(tree, node, place, actor, keeps=keeps)


def _copy(tree: Tree, node: Node, place: str, actor: Actor, *, keeps: bool) -> None:
    there = tree.get(place)
    if node.kind == "other":
        raise NeedsEngine("cp of a device has to be run")
    if node.kind == "directory":
        if there is None:
            may_write(tree, posixpath.dirname(place), actor)
            made = directory(mode=node.mode & 0o777, uid=actor.uid, gid=actor.gid, mtime=actor.now)
            tree.put(place, made)
        elif there.kind != "directory":
            raise CommandFails(f"cp: /{place} is no folder")
        for name, child in sorted((node.children or {}).items()):
            _copy(tree, child, f"{place}/{name}", actor, keeps=keeps)
        if keeps:
            own = tree.own(place)
            own.mode, own.mtime = node.mode, node.mtime
            if actor.uid == 0:
                own.uid, own.gid = node.uid, node.gid
        return
    if there is not None and there.kind == "directory":
        raise CommandFails(f"cp: /{place} is a folder")
    if there is not None and there.kind == "symlink" and node.kind == "file":
        place = tree.resolve(place)
        there = tree.get(place)
    made = node.copied(0)
    made.inode = 0
    made.xattrs = node.xattrs if keeps else {}
    if node.kind == "file" and not keeps:
        if there is not None:
            made.mode, made.uid, made.gid = there.mode, there.uid, there.gid
        else:
            made.mode, made.uid, made.gid = node.mode & 0o755, actor.uid, actor.gid
        made.mtime = actor.now
    elif actor.uid or not keeps:
        made.uid, made.gid = actor.uid, actor.gid
    if there is None:
        may_write(tree, posixpath.dirname(place), actor)
    tree.put(place, made)


def _mv(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    for source, place in _into(tree, action, operands, actor):
        real = _place(tree, source, actor)
        node = tree.get(real)
        if node is None:
            raise CommandFails(f"mv: {source} is not there")
        if place == real:
            raise CommandFails(f"mv: {source} is the same file")
        if place.startswith(f"{real}/"):
            raise CommandFails(f"mv: {source} cannot be moved into itself")
        there = tree.get(place)
        if there is not None:
            if "n" in action.flags:
                continue
            if (there.kind == "directory") != (node.kind == "directory") or there.children:
                raise CommandFails(f"mv: /{place} is in the way")
        may_write(tree, posixpath.dirname(real), actor)
        may_write(tree, posixpath.dirname(place), actor)
        moved = tree.graft(node)
        tree.remove(real)
        tree.put(place, moved)


def _install(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    mode = 0o755 if action.mode is None else _octal(action.mode)
    uid, gid = user_ids(action.owner, actor.passwd, actor.group)
    if actor.uid and action.owner:
        raise CommandFails(f"install: user {actor.uid} may not change owners")

    def settle(path: str) -> None:
        own = tree.own(path)
        own.mode = mode
        if action.owner:
            own.uid, own.gid = (own.uid if uid is None else uid), (own.gid if gid is None else gid)

    if "d" in action.flags:
        for operand in operands:
            there = tree.find(joined_raw(actor.cwd, operand))
            if there is None:
                _mkdir(tree, action, [operand], actor)
            path = tree.resolve(joined_raw(actor.cwd, operand))
            node = tree.get(path)
            if node is None or node.kind != "directory":
                raise CommandFails(f"install: {operand} is no folder")
            _must_own(node, path, actor)
            settle(path)
        return
    if "D" in action.flags:
        folder = posixpath.dirname(operands[-1].rstrip("/"))
        if folder:
            _mkdir(tree, replace(action, flags=frozenset("p"), mode=None), [folder], actor)
    for source, place in _into(tree, action, operands, actor):
        node = tree.find(joined_raw(actor.cwd, source))
        if node is None or node.kind != "file":
            raise CommandFails(f"install: {source} is no file")
        there = tree.get(place)
        if there is not None and there.kind == "directory":
            raise CommandFails(f"install: /{place} is a folder")
        may_write(tree, posixpath.dirname(place), actor)
        made = node.copied(0)
        made.uid, made.gid, made.inode, made.xattrs, made.mtime = actor.uid, actor.gid, 0, {}, actor.now
        tree.put(place, made)
        settle(place)


def _targets(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> Iterator[tuple[str, Node]]:
    """What chmod and chown act on: the operands, links followed, and with -R all below, links left alone."""
    for operand in operands:
        path = tree.resolve(joined_raw(actor.cwd, operand))
        node = tree.get(path)
        if node is None or node.kind == "symlink":
            raise CommandFails(f"{action.name}: {operand} is not there")
        below = [name for name, _ in tree.walk(path)] if "R" in action.flags else []
        for name in (path, *below):
            found = tree.get(name)
            assert found is not None
            yield name, found


def _chmod(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    mode, *rest = operands
    for path, node in _targets(tree, action, rest, actor):
        if node.kind == "symlink":
            continue
        _must_own(node, path, actor)
        wanted = changed_mode(mode, node)
        if wanted != node.mode:
            tree.own(path).mode = wanted


def changed_mode(text: str, node: Node) -> int:
    """The mode that chmod gives an entry for `755`, `u+x,go-w`, `a=rX`.

    :raises NeedsEngine: for what is none of these.
    """
    if re.fullmatch(r"[0-7]{1,4}", text):
        mode = int(text, 8)
        if node.kind == "directory" and len(text) < 5:
            mode |= node.mode & 0o6000
        return mode
    mode = node.mode
    for clause in text.split(","):
        match = re.fullmatch(r"([ugoa]*)((?:[-+=][rwxXst]*)+)", clause)
        if match is None:
            raise NeedsEngine(f"chmod {text} has to be run")
        who, actions = match.groups()
        everyone = not who
        for operator, letters in re.findall(r"([-+=])([rwxXst]*)", actions):
            bits = 0
            for shift, letter in ((6, "u"), (3, "g"), (0, "o")):
                if letter not in who and "a" not in who and not everyone:
                    continue
                one = 4 * ("r" in letters) | 2 * ("w" in letters) | ("x" in letters)
                if "X" in letters and (node.kind == "directory" or mode & 0o111):
                    one |= 1
                bits |= one << shift
                if "s" in letters and letter != "o":
                    bits |= 0o4000 if letter == "u" else 0o2000
            if "t" in letters:
                bits |= 0o1000
            if everyone:
                bits &= ~0o022
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                if "s" in letters or "t" in letters:
                    raise NeedsEngine(f"chmod {text} has to be run")
                mask = sum(7 << shift for shift, letter in ((6, "u"), (3, "g"), (0, "o")) if everyone or letter in who)
                mode = mode & ~(0o777 if "a" in who else mask) | bits
    return mode


def _chown(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    owner, *rest = operands
    if "." in owner and ":" not in owner:
        raise NeedsEngine(f"chown {owner} has to be run")
    if action.name == "chgrp":
        owner = f":{owner}"
    uid, gid = user_ids(owner, actor.passwd, actor.group)
    if actor.uid:
        raise CommandFails(f"{action.name}: user {actor.uid} may not change owners")
    if "h" in action.flags and "R" not in action.flags:
        raise NeedsEngine("chown -h has to be run")
    for path, node in _targets(tree, action, rest, actor):
        wanted = (node.uid if uid is None else uid, node.gid if gid is None else gid)
        if wanted != (node.uid, node.gid):
            own = tree.own(path)
            own.uid, own.gid = wanted
            if own.kind == "file":
                own.mode &= ~0o6000


def _touch(tree: Tree, action: FileCommand, operands: list[str], actor: Actor) -> None:
    for operand in operands:
        path = tree.resolve(joined_raw(actor.cwd, operand))
        if tree.get(path) is not None:
            tree.own(path).mtime = actor.now
        elif "c" not in action.flags:
            write_file(tree, path, b"", actor, append=False)


def write_file(tree: Tree, path: str, data: bytes, actor: Actor, *, append: bool) -> None:
    """Writes what a redirection does.

    :raises CommandFails: when it cannot be written there.
    """
    real = tree.resolve(path)
    folder = posixpath.dirname(real)
    parent = tree.get(folder)
    if parent is None or parent.kind != "directory":
        raise CommandFails(f"/{folder}: there is no such folder")
    there = tree.get(real)
    if there is None:
        may_write(tree, folder, actor)
        made = Node(
            kind="file",
            mode=0o644,
            uid=actor.uid,
            gid=actor.gid,
            mtime=actor.now,
            size_bytes=len(data),
            content=Data(data),
        )
        _inherit_group(tree, folder, made)
        tree.put(real, made)
        return
    if there.kind != "file" or there.content is None:
        raise CommandFails(f"/{real} is no file")
    if append:
        if there.size_bytes > 16 << 20:
            raise NeedsEngine("appending to a large file has to be run")
        with there.content.open() as stream:
            data = stream.read() + data
    own = tree.own(real)
    own.content, own.size_bytes, own.mtime, own.inode = Data(data), len(data), actor.now, 0


def put_text(tree: Tree, path: str, text: str, actor: Actor) -> None:
    """Writes a file that a program leaves, with the folders that it stands in.

    :raises CommandFails: when it cannot be written there.
    """
    tree.make_folders(posixpath.dirname(path), uid=actor.uid, gid=actor.gid)
    write_file(tree, path, text.encode(), actor, append=False)


_COMMANDS = {
    "mkdir": _mkdir,
    "rm": _rm,
    "rmdir": _rmdir,
    "ln": _ln,
    "cp": _cp,
    "mv": _mv,
    "chmod": _chmod,
    "chown": _chown,
    "chgrp": _chown,
    "touch": _touch,
    "install": _install,
}


__all__ = [
    "Actor",
    "CommandFails",
    "changed_mode",
    "do",
    "expand_pattern",
    "joined",
    "may_write",
    "put_text",
    "user_ids",
    "write_file",
]
