"""useradd, groupadd and `usermod -aG` of a RUN, done on a stage's tree.

Only where the base's own files decide everything, and its shadow-utils is of a version that this is held to: passwd,
group, shadow and gshadow, the ranges of subordinate ids, and a home made from /etc/skel. The day on which a password
was changed is the build's time, which is SOURCE_DATE_EPOCH, else 1980.

Sources: the manuals useradd(8), groupadd(8), usermod(8), login.defs(5), passwd(5), shadow(5), gshadow(5), subuid(5).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from msgspec import Struct

from wain.actions import Account, NeedsEngine
from wain.filework import Actor, CommandFails
from wain.pythons import find_program
from wain.tree import Data, Node, Tree, directory

_KNOWN_VERSIONS = ("1:4.17.",)
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_DATABASES = ("passwd", "group", "shadow", "gshadow")
_MAX_STATUS_BYTES = 64 << 20


def add_account(action: Account, tree: Tree, env: Mapping[str, str], actor: Actor) -> None:
    """Does one command.

    :raises CommandFails: when it would fail.
    :raises NeedsEngine: when the base's files do not decide what it would do.
    """
    if find_program(tree, action.program, env, actor.cwd) is None:
        raise CommandFails(f"{action.program}: there is no such program in the image")
    if actor.uid:
        raise CommandFails(f"{action.program}: user {actor.uid} may not change accounts")
    version = _package_version(tree, "passwd")
    if version is None or not version.startswith(_KNOWN_VERSIONS):
        raise NeedsEngine(f"{action.program} of shadow-utils {version or 'of another system'} has to be run")
    if not _NAME.fullmatch(action.name):
        raise NeedsEngine(f"{action.program} looks at the name {action.name} by rules of its own")
    if tree.find("etc/nsswitch.conf") is not None and re.search(
        r"(?m)^(passwd|group):.*\b(sss|ldap|nis|extrausers)\b", tree.text("etc/nsswitch.conf") or ""
    ):
        raise NeedsEngine("accounts come from elsewhere than the base's files")
    _Accounts(tree, actor).do(action)


class _Database(Struct):
    """One of the files, as rows of fields; written at the end where it changed."""

    name: str
    rows: list[list[str]]
    changed: bool = False

    def find(self, name: str) -> list[str] | None:
        return next((row for row in self.rows if row[0] == name), None)

    def numbers(self) -> set[int]:
        return {int(row[2]) for row in self.rows if len(row) > 2 and row[2].isdecimal()}

    def add(self, *fields: str) -> None:
        self.rows.append([*fields])
        self.changed = True


class _Accounts:
    def __init__(self, tree: Tree, actor: Actor) -> None:
        self._tree = tree
        self._actor = actor
        self._databases = {name: self._read(name) for name in _DATABASES}
        self._defs = self._settings("etc/login.defs", r"(?m)^\s*([A-Z_]+)\s+(\S+)")
        self._defaults = self._settings("etc/default/useradd", r"(?m)^\s*([A-Z_]+)=(.*?)\s*$")

    def do(self, action: Account) -> None:
        if action.program == "groupadd":
            self._group_add(action)
        elif action.program == "usermod":
            user = self._databases["passwd"].find(action.name)
            if user is None:
                raise CommandFails(f"usermod: there is no user {action.name}")
            self._join(action.name, action.values["groups"])
        else:
            self._user_add(action)
        for database in self._databases.values():
            if database.changed:
                self._write(database)
        if self._tree.find("etc/.pwd.lock") is None:
            self._put("etc/.pwd.lock", b"", Node(kind="file", mode=0o600))

    # -- files -----------------------------------------------------------------------------------------------

    def _read(self, name: str) -> _Database:
        text = self._tree.text(f"etc/{name}")
        node = self._tree.get(f"etc/{name}")
        if text is None or node is None or node.kind != "file":
            raise NeedsEngine(f"the base has no /etc/{name} that is a file")
        rows = [line.split(":") for line in text.splitlines()]
        if any(len(row) < 3 or row[0].startswith(("+", "-")) for row in rows) or (text and not text.endswith("\n")):
            raise NeedsEngine(f"/etc/{name} has lines that are none of its own")
        return _Database(name=name, rows=rows)

    def _settings(self, path: str, pattern: str) -> dict[str, str]:
        return dict(re.findall(pattern, self._tree.text(path) or ""))

    def _write(self, database: _Database) -> None:
        path = f"etc/{database.name}"
        node = self._tree.get(path)
        assert node is not None
        self._back_up(path, node)
        self._put(path, "".join(":".join(row) + "\n" for row in database.rows).encode("utf-8", "surrogateescape"), node)

    def _back_up(self, path: str, node: Node) -> None:
        backup = node.copied(0)
        backup.inode = 0
        self._tree.put(f"{path}-", backup)

    def _put(self, path: str, data: bytes, like: Node) -> None:
        self._tree.put(
            path,
            Node(
                kind="file",
                mode=like.mode,
                uid=like.uid,
                gid=like.gid,
                mtime=self._actor.now,
                size_bytes=len(data),
                content=Data(data),
            ),
        )

    def _number(self, name: str, default: int) -> int:
        text = self._defs.get(name, "")
        if text and not text.isdecimal():
            raise NeedsEngine(f"login.defs has {name} {text}")
        return int(text) if text else default

    # -- groups ----------------------------------------------------------------------------------------------

    def _group_add(self, action: Account) -> None:
        groups = self._databases["group"]
        if groups.find(action.name) is not None:
            if "force" in action.switches:
                return
            raise CommandFails(f"groupadd: the group {action.name} exists already")
        system = "system" in action.switches
        if "gid" in action.values:
            gid = _as_number(action.values["gid"])
            if gid in groups.numbers():
                raise CommandFails(f"groupadd: the gid {gid} exists already")
        else:
            gid = self._free(groups.numbers(), "GID", system=system, wanted=None)
        self._add_group(action.name, gid)

    def _add_group(self, name: str, gid: int) -> None:
        self._databases["group"].add(name, "x", str(gid), "")
        self._databases["gshadow"].add(name, "!", "", "")

    def _group_of(self, text: str) -> list[str]:
        groups = self._databases["group"]
        row = groups.find(text)
        if row is None and text.isdecimal():
            row = next((one for one in groups.rows if one[2] == text), None)
        if row is None or len(row) < 4:
            raise CommandFails(f"there is no group {text}")
        return row

    def _join(self, user: str, names: str) -> None:
        for name in dict.fromkeys(names.split(",")):
            row = self._group_of(name)
            shadow = self._databases["gshadow"].find(row[0])
            for database, entry in (("group", row), ("gshadow", shadow)):
                if entry is None:
                    continue
                if len(entry) < 4:
                    raise NeedsEngine(f"/etc/{database} has a line of another form")
                members = [one for one in entry[3].split(",") if one]
                if user not in members:
                    entry[3] = ",".join([*members, user])
                    self._databases[database].changed = True

    def _free(self, used: set[int], kind: str, *, system: bool, wanted: int | None) -> int:
        """The number that shadow-utils would give."""
        least = self._number(f"{kind}_MIN", 1000)
        first, last = least, self._number(f"{kind}_MAX", 60000)
        if system:
            first, last = self._number(f"SYS_{kind}_MIN", 101), self._number(f"SYS_{kind}_MAX", least - 1)
        taken = {number for number in used if first <= number <= last}
        if wanted is not None and first <= wanted <= last and wanted not in taken:
            return wanted
        if not system:
            found = max(taken, default=first - 1) + 1
            if found > last:
                raise NeedsEngine("no number is left above those that are taken")
            return found
        below = min(taken, default=last + 1) - 1
        highest = next((number for number in range(last, first - 1, -1) if number not in taken), None)
        if highest is None or (below >= first and below != highest):
            raise NeedsEngine("the base's system accounts leave more than one choice of a number")
        return highest

    # -- users -----------------------------------------------------------------------------------------------

    def _user_add(self, action: Account) -> None:
        passwd, groups, shadow = (self._databases[name] for name in ("passwd", "group", "shadow"))
        name, values, switches = action.name, action.values, action.switches
        if passwd.find(name) is not None:
            raise CommandFails(f"useradd: the user {name} exists already")
        if self._defs.get("CREATE_HOME", "no") != "no" or self._defaults.get("CREATE_MAIL_SPOOL", "no") != "no":
            raise NeedsEngine("login.defs or useradd's defaults ask for homes or mail spools")
        if any(char in values.get("comment", "") + values.get("shell", "") for char in ":\n"):
            raise CommandFails("useradd: a value has a colon in it")
        system = "system" in switches
        if "uid" in values:
            uid = _as_number(values["uid"])
            if uid in passwd.numbers():
                raise CommandFails(f"useradd: the uid {uid} is not unique")
        else:
            uid = self._free(passwd.numbers(), "UID", system=system, wanted=None)
        own_group = "own-group" in switches or (
            "gid" not in values and "no-group" not in switches and self._defs.get("USERGROUPS_ENAB") == "yes"
        )
        if own_group:
            if groups.find(name) is not None:
                raise CommandFails(f"useradd: the group {name} exists already; give -g to add this user to it")
            gid = self._free(groups.numbers(), "GID", system=system, wanted=uid)
        elif "gid" in values:
            gid = int(self._group_of(values["gid"])[2])
        else:
            raise NeedsEngine("useradd takes its default group")
        home = values.get("home") or f"{self._defaults.get('HOME', '/home')}/{name}"
        shell = values.get("shell", self._defaults.get("SHELL", ""))
        if ":" in home or not home.startswith("/"):
            raise CommandFails(f"useradd: {home} is no home")
        passwd.add(name, "x", str(uid), str(gid), values.get("comment", ""), home, shell)
        day = str(self._actor.now // 86400)
        if system:
            shadow.add(name, "!", day, "", "", "", "", "", "")
        else:
            least, most = self._defs.get("PASS_MIN_DAYS", ""), self._defs.get("PASS_MAX_DAYS", "")
            shadow.add(name, "!", day, least, most, self._defs.get("PASS_WARN_AGE", ""), "", "", "")
        if own_group:
            self._add_group(name, gid)
        if "groups" in values:
            self._join(name, values["groups"])
        if not system and uid <= self._number("UID_MAX", 60000) and uid >= self._number("UID_MIN", 1000):
            self._subordinate(name, "UID")
            self._subordinate(name, "GID")
        if "make-home" in switches and "no-home" not in switches:
            self._make_home(home, uid, gid)

    def _subordinate(self, name: str, kind: str) -> None:
        path = f"etc/sub{kind.lower()}"
        node = self._tree.get(path)
        text = self._tree.text(path)
        if node is None or text is None:
            return
        count = self._number(f"SUB_{kind}_COUNT", 65536)
        first = self._number(f"SUB_{kind}_MIN", 100000)
        if not count:
            return
        ranges = [line.split(":") for line in text.splitlines()]
        if any(len(row) != 3 or not (row[1] + row[2]).isdecimal() for row in ranges):
            raise NeedsEngine(f"/{path} has lines of another form")
        starts = sorted((int(row[1]), int(row[2])) for row in ranges)
        for start, size in starts:
            if start != first:
                raise NeedsEngine(f"/{path} has ranges with gaps")
            first = start + size
        self._back_up(path, node)
        self._put(path, f"{text}{name}:{first}:{count}\n".encode(), node)

    def _make_home(self, home: str, uid: int, gid: int) -> None:
        tree = self._tree
        path = tree.resolve(home)
        if tree.get(path) is not None:
            return
        parent = tree.get(posixpath.dirname(path))
        if parent is None or parent.kind != "directory":
            raise NeedsEngine(f"useradd makes the folders above {home}")
        if not re.fullmatch(r"0?[0-7]{3}", self._defs.get("HOME_MODE", "")):
            raise NeedsEngine("login.defs does not say the mode of a home")
        made = directory(mode=int(self._defs["HOME_MODE"], 8), uid=uid, gid=gid, mtime=self._actor.now)
        tree.put(path, made)
        skeleton = tree.find(self._defaults.get("SKEL", "/etc/skel"))
        for name, node in sorted(((skeleton.children if skeleton is not None else None) or {}).items()):
            self._copy(node, f"{path}/{name}", uid, gid)

    def _copy(self, node: Node, place: str, uid: int, gid: int) -> None:
        if node.kind not in {"file", "directory"}:
            raise NeedsEngine("/etc/skel has more than files and folders")
        made = node.copied(0) if node.kind == "file" else directory(mode=node.mode, mtime=node.mtime)
        made.uid, made.gid, made.inode = uid, gid, 0
        self._tree.put(place, made)
        for name, child in sorted((node.children or {}).items()):
            self._copy(child, f"{place}/{name}", uid, gid)


def _as_number(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise CommandFails(f"{text} is no number of a user or group")
    return int(text)


def _package_version(tree: Tree, name: str) -> str | None:
    """The version of an installed Debian package, by dpkg's own list."""
    node = tree.find("var/lib/dpkg/status")
    if node is None or node.content is None or node.size_bytes > _MAX_STATUS_BYTES:
        return None
    with node.content.open() as stream:
        text = stream.read().decode("utf-8", "replace")
    match = re.search(rf"(?m)^Package: {re.escape(name)}\n(?:.+\n)*?Version: (\S+)\n", text)
    return match[1] if match else None
