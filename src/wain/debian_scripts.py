"""What a package's maintainer scripts would do when it is installed for the first time, without running them.

No script runs. Their text is read as a shell would read it with `configure` (of preinst: `install`) as its first
argument and nothing as its second; what cannot be decided is taken both ways. What is left is either of no
consequence in an image, or made by wain, or refused by name.

Source: Debian policy, chapter 6 (maintainer scripts) and 6.5 (their arguments).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from msgspec import Struct, field

from wain.errors import DebianError

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

log = logging.getLogger(__name__)

_MAX_SCRIPT_BYTES = 200_000
_MAX_DEPTH = 80
_MAX_STEPS = 20_000

# What only looks, speaks, or ends the script.
_LOOKS = (
    "set echo printf true false : test [ exit return shift export local unset which command type read cat grep egrep"
    " fgrep sed awk cut tr head tail sort uniq wc ls basename dirname readlink realpath expr getent id uname stat"
    " md5sum sha256sum cmp diff find dpkg-query dpkg-maintscript-helper dpkg-trigger wait sleep trap umask eval cd"
    " break continue mktemp logger ischroot chroot mountpoint"
).split()
# What cares for a machine with services, an init system, a package manager or a desktop, or keeps an index that
# programs do without.
_NEEDLESS = (
    "deb-systemd-helper deb-systemd-invoke systemctl invoke-rc.d update-rc.d service start-stop-daemon"
    " py3compile py3clean pycompile pyclean pypy3compile add-shell update-shells remove-shell install-info"
    " update-mime-database update-desktop-database gtk-update-icon-cache update-icon-caches update-menus fc-cache"
    " update-fonts-dir update-fonts-scale update-fonts-alias update-mime mandb ucf ucfr restorecon udevadm"
    " update-binfmts apparmor_parser aa-status systemd-tmpfiles"
).split()
# What an older version left behind, which no image has; and what wain does itself.
_DONE = ("rm", "rmdir", "ldconfig")
_HARMLESS = frozenset((*_LOOKS, *_NEEDLESS, *_DONE))

# Programs that index what lies in a folder: nothing to do where it is empty.
_INDEXERS = {
    "glib-compile-schemas": re.compile(r"usr/share/glib-2\.0/schemas/.*\.xml"),
    "gio-querymodules": re.compile(r"usr/lib/[^/]+/gio/modules/.*"),
}

# Packages of the built-in base whose scripts' effects stand in `wain.debian_rootfs`, or are of no use in an image:
# /etc/passwd, the certificates' bundle, the time zone, /var/run and its like, byte code, /etc/nsswitch.conf. Of
# debianutils: /etc/shells, which only log-in programs read. Of fontconfig-config: how a person at this machine
# likes letters to look. Of hicolor-icon-theme: a cache of icons.
_KNOWN = re.compile(
    r"base-files|base-passwd|ca-certificates|debianutils|fontconfig-config|hicolor-icon-theme|libc-bin|libc6|libpam0g|netbase|readline-common|tzdata"
    r"|libreadline8(t64)?|libtirpc3(t64)?|libgcc-s1|zlib1g|libcrypt1|libssl1\.1|libssl3(t64)?"
    r"|(lib)?python3(\.[0-9]+)?(-minimal|-stdlib|-distutils|-lib2to3)?"
)

# The shells' scripts see to it that there is a /bin/sh, in many lines; mariadb's that its settings are found.
_KNOWN_LINKS = {
    "bash": ("/usr/bin/sh", "bash"),
    "dash": ("/usr/bin/sh", "dash"),
    "mariadb-common": ("/etc/mysql/my.cnf", "mariadb.cnf"),
}

# What a script makes by running a program of the image, and most do without: said, not refused.
_UNMADE = {
    "libgdk-pixbuf-2.0-0": "its table of image loaders is not made: gdk-pixbuf has its built-in loaders only",
}


class Alternative(Struct, frozen=True, kw_only=True):
    """One candidate for a name that several packages can give."""

    name: str
    link: str
    """Absolute path that people use."""
    path: str
    """Absolute path of what it leads to."""
    priority: int


class Effects(Struct):
    """What wain does in the scripts' place."""

    alternatives: list[Alternative] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    """Absolute paths."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Absolute path and target of symbolic links, made where nothing is yet."""
    files: list[str] = field(default_factory=list)
    """Absolute paths of empty files, made where nothing is yet."""
    copies: list[tuple[str, str]] = field(default_factory=list)
    """Absolute paths of a file and of its copy, made where nothing is yet."""


def script_effects(
    package: str,
    scripts: Mapping[str, bytes],
    *,
    has_match: Callable[[re.Pattern[str]], bool] = lambda _: False,
    exists: Callable[[str], bool] | None = None,
) -> Effects:
    """What is to be done in place of a package's scripts.

    :param scripts: preinst and postinst, where it has them.
    :param has_match: whether the image holds a path, relative to its root, that the pattern matches.
    :param exists: whether an absolute path is in the image; without it, nobody knows.
    :raises DebianError: when a script does something else; names package, script, line and command.
    """
    effects = Effects()
    if package in _KNOWN_LINKS:
        effects.links.append(_KNOWN_LINKS[package])
    if package in _UNMADE and "postinst" in scripts:
        log.warning("Debian's package %s: %s", package, _UNMADE[package])
        return effects
    if package in _KNOWN_LINKS or _KNOWN.fullmatch(package):
        return effects
    for name, action in (("preinst", "install"), ("postinst", "configure")):
        if name in scripts:
            _Reading(package, name, scripts[name], action, effects, has_match, exists).run()
    return effects


@functools.cache
def _parser() -> Parser:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


class _Ended(Exception):
    """The script has reached its exit."""


class _Reading:
    def __init__(
        self,
        package: str,
        name: str,
        script: bytes,
        action: str,
        effects: Effects,
        has_match: Callable[[re.Pattern[str]], bool],
        exists: Callable[[str], bool] | None,
    ) -> None:
        self._package = package
        self._name = name
        self._script = script
        self._action = action
        self._effects = effects
        self._has_match = has_match
        self._exists = exists
        self._functions: dict[str, Node] = {}
        self._active: set[str] = set()
        self._steps = 0

    def run(self) -> None:
        if len(self._script) > _MAX_SCRIPT_BYTES or not re.match(rb"#! ?/(usr/)?bin/(env )?(ba|da)?sh\b", self._script):
            raise self._refusal("is no shell script")
        root = _parser().parse(self._script).root_node
        if root.has_error:
            raise self._refusal("cannot be read")
        try:
            self._each(root, 0)
        except _Ended:
            pass

    def _refusal(self, detail: str) -> DebianError:
        return DebianError(
            f"the {self._name} script of Debian's package {self._package} {detail}; no script runs in an image"
            " made by wain",
            hint=f"Leave {self._package} out of `packages`, or name a base image that has it with --base.",
        )

    def _beyond(self, node: Node, what: str) -> DebianError:
        return self._refusal(f"does more than is made without it: {what!r} in line {node.start_point[0] + 1}")

    def _text(self, node: Node) -> str:
        return self._script[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def _each(self, node: Node, depth: int) -> None:
        for child in node.named_children:
            self._walk(child, depth + 1)

    def _walk(self, node: Node, depth: int) -> bool | None:
        """What the node does; whether it succeeds, where that is certain."""
        self._steps += 1
        if depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            raise self._refusal("is nested too deep")
        match node.type:
            case "comment" | "variable_name" | "word" | "raw_string" | "number" | "heredoc_redirect":
                return None
            case "command":
                return self._command(node, depth)
            case "test_command":
                return self._test(self._text(node))
            case "function_definition":
                name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
                if name is not None and body is not None:
                    self._functions[self._text(name)] = body
                return True
            case "case_statement":
                self._case(node, depth)
                return None
            case "if_statement":
                self._if(node, depth)
                return None
            case "list":
                return self._list(node, depth)
            case "negated_command":
                found = self._walk(node.named_children[0], depth + 1)
                return None if found is None else not found
            case "redirected_statement":
                return self._redirected(node, depth)
            case "while_statement" | "for_statement":
                body = node.child_by_field_name("body")
                for child in node.named_children:
                    if child != body:
                        self._walk(child, depth + 1)
                if body is not None:
                    self._maybe(body, depth)
                return None
            case "subshell" | "command_substitution":
                try:
                    self._each(node, depth)
                except _Ended:
                    pass
                return None
            case "ERROR":
                raise self._refusal("cannot be read")
            case _:
                self._each(node, depth)
                return None

    def _maybe(self, node: Node, depth: int) -> None:
        """What may or may not happen: an exit in it ends nothing."""
        try:
            self._walk(node, depth + 1)
        except _Ended:
            pass

    def _if(self, node: Node, depth: int) -> None:
        conditions: list[Node] = []
        body: list[Node] = []
        branches: list[Node] = []
        place = conditions
        for child in node.children:
            if child.type == "then":
                place = body
            elif child.type in ("elif_clause", "else_clause"):
                branches.append(child)
            elif child.is_named:
                place.append(child)
        found: bool | None = None
        for condition in conditions:
            found = self._walk(condition, depth + 1)
        if found is not False:
            self._run_all(body, depth, certain=found is True)
        if found is True:
            return
        for branch in branches:
            if branch.type == "elif_clause":
                self._if(branch, depth + 1)
            else:
                self._run_all(branch.named_children, depth, certain=found is False and len(branches) == 1)

    def _run_all(self, nodes: Sequence[Node], depth: int, *, certain: bool) -> None:
        try:
            for node in nodes:
                self._walk(node, depth + 1)
        except _Ended:
            if certain:
                raise

    def _case(self, node: Node, depth: int) -> None:
        value = node.child_by_field_name("value")
        subject = self._known(self._text(value)) if value is not None else None
        for item in node.named_children:
            if item.type != "case_item":
                continue
            patterns = [
                item.children[place]
                for place in range(item.child_count)
                if item.field_name_for_child(place) == "value" and item.children[place].is_named
            ]
            body = [child for child in item.named_children if child not in patterns]
            if subject is None:
                self._run_all(body, depth, certain=False)
            elif any(fnmatchcase(subject, self._text(pattern).strip("\"'")) for pattern in patterns):
                self._run_all(body, depth, certain=True)
                return

    def _list(self, node: Node, depth: int) -> bool | None:
        left, right = node.named_children[0], node.named_children[-1]
        is_and = any(child.type == "&&" for child in node.children)
        first = self._walk(left, depth + 1)
        if first is (not is_and):
            return first
        try:
            second = self._walk(right, depth + 1)
        except _Ended:
            if first is not None:
                raise
            second = None
        if first is is_and:
            return second
        return second if second is (not is_and) else None

    def _redirected(self, node: Node, depth: int) -> bool | None:
        for child in node.named_children:
            if child.type == "file_redirect":
                destination = child.child_by_field_name("destination")
                target = self._text(destination) if destination is not None else ""
                text = self._text(child)
                if ">" in text and not re.fullmatch(
                    r"/dev/(null|stderr|stdout|tty)|/var/log/[\w.-]+|&?[0-9]|-", target.strip("\"'")
                ):
                    raise self._beyond(child, text)
        body = node.child_by_field_name("body")
        return None if body is None else self._walk(body, depth + 1)

    def _known(self, text: str) -> str | None:
        """The value of a word that is the script's argument or plain text."""
        inner = text.strip().strip("\"'")
        if re.fullmatch(r"\$\{?1\}?", inner):
            return self._action
        if re.fullmatch(r"\$\{?[2-9](:-)?\}?|\$\{?DPKG_ROOT(:-)?\}?", inner):
            return ""
        return None if re.search(r"[$`*?]", inner) else inner

    def _test(self, text: str) -> bool | None:
        words = re.findall(r"\"[^\"]*\"|'[^']*'|\S+", text.strip().removeprefix("[").removesuffix("]").strip("[] "))
        if words and words[0] == "!":
            found = self._test(" ".join(words[1:]))
            return None if found is None else not found
        for place, word in enumerate(words):
            if word in ("-a", "-o", "&&", "||"):
                left, right = self._test(" ".join(words[:place])), self._test(" ".join(words[place + 1 :]))
                stops = word in ("-o", "||")
                if left is stops or right is stops:
                    return stops
                return None if None in (left, right) else right
        if len(words) == 3 and words[1] in ("=", "==", "!="):
            one, two = (self._known(word.strip("\"'").removeprefix("x") or '""') for word in (words[0], words[2]))
            if one is None or two is None:
                return None
            return (one == two) is (words[1] != "!=")
        if len(words) == 2 and words[0] in ("-n", "-z"):
            value = self._known(words[1])
            return None if value is None else bool(value) is (words[0] == "-n")
        if len(words) == 2 and words[0] in ("-e", "-f", "-d", "-x", "-r", "-s", "-L", "-h") and self._exists:
            path = self._plain(words[1])
            if re.fullmatch(r"/[\w.+/-]+", path):
                there = self._exists(path)
                return False if not there else (True if words[0] == "-e" else None)
        return None

    def _command(self, node: Node, depth: int) -> bool | None:
        name_node = node.child_by_field_name("name")
        name = self._text(name_node) if name_node is not None else ""
        arguments = [child for child in node.named_children if child.type != "command_name"]
        for argument in arguments:
            self._substitutions(argument, depth)
        words = [self._text(argument) for argument in arguments if argument.type != "variable_assignment"]
        if name in self._functions:
            if name in self._active:  # a function that calls itself is not followed twice
                return None
            self._active.add(name)
            try:
                return self._walk(self._functions[name], depth + 1)
            finally:
                self._active.discard(name)
        program = name.strip("\"'").rpartition("/")[2]
        if program in ("exit", "exec") and (program == "exit" or words):
            if program == "exec" and not re.fullmatch(r"[0-9]*[<>].*", words[0]):
                raise self._beyond(node, self._text(node))
            raise _Ended
        if program == "true" or program == ":":
            return True
        if program == "false":
            return False
        if program == "test":
            return self._test(" ".join(words))
        if program == "dpkg" and words[:1] == ["--compare-versions"] and len(words) == 4:
            # An empty version, as at the first installation, is older than any; `lt-nl` takes it for newer.
            if self._known(words[1]) == "":
                return words[2] in ("lt", "le", "<<", "<=", "ge-nl", "gt-nl")
            return None
        if program in ("which", "command") and words and self._exists:
            wanted = self._plain(words[-1])
            if re.fullmatch(r"[\w.+-]+", wanted) and not any(
                self._exists(f"/usr/{folder}/{wanted}") for folder in ("bin", "sbin", "local/bin", "local/sbin")
            ):
                return False
        self._judge(node, program, words)
        return None

    def _substitutions(self, node: Node, depth: int) -> None:
        if node.type == "command_substitution":
            self._walk(node, depth + 1)
            return
        for child in node.named_children:
            self._substitutions(child, depth + 1)

    def _judge(self, node: Node, program: str, words: Sequence[str]) -> None:
        text = " ".join(self._text(node).split())[:120]
        if program == "sed" and any(re.match(r"-[a-zA-Z]*i", word) for word in words):
            raise self._beyond(node, text)
        if program == "find" and any(word in ("-delete", "-exec", "-execdir") for word in words):
            raise self._beyond(node, text)
        if program == "eval":
            raise self._beyond(node, text)
        if program == "." and words and words[0].strip("\"'") == "/usr/share/debconf/confmodule":
            return
        if program in _HARMLESS or re.fullmatch(r"db_[a-z_]+", program):
            return
        if program == "dpkg" and words and words[0] in ("-L", "-s", "--print-architecture", "--listfiles", "-S"):
            return
        if program == "dpkg-statoverride" and words[:1] == ["--list"]:
            return
        if program in _INDEXERS and not self._has_match(_INDEXERS[program]):
            return
        if program == "update-alternatives" and self._alternative(words):
            return
        if program == "mkdir" and self._directories(words):
            return
        if program == "ln" and self._link(words):
            return
        if program == "touch" and self._touch(words):
            return
        if program == "cp" and self._copy(words):
            return
        if program == "install" and words[:1] == ["-d"] and self._directories(words[1:]):
            return
        if any(word.endswith("/py_compile.py") for word in words):
            return
        raise self._beyond(node, text)

    def _directories(self, words: Sequence[str]) -> bool:
        paths = [self._plain(word) for word in words if not re.fullmatch(r"-p|--parents", word)]
        if not all(re.fullmatch(r"/[\w.+/-]+", path) and ".." not in path.split("/") for path in paths):
            return False
        self._effects.directories.extend(paths)
        return True

    def _touch(self, words: Sequence[str]) -> bool:
        paths = [self._plain(word) for word in words]
        if not all(re.fullmatch(r"/[\w.+/-]+[\w.+-]", path) and ".." not in path.split("/") for path in paths):
            return False
        self._effects.files.extend(paths)
        return True

    def _copy(self, words: Sequence[str]) -> bool:
        flags = [word for word in words if word.startswith("-")]
        paths = [self._plain(word) for word in words if not word.startswith("-")]
        if len(paths) != 2 or not all(re.fullmatch(r"-[apfnu]+", flag) for flag in flags):
            return False
        if not all(re.fullmatch(r"/[\w.+/-]+", path) and ".." not in path.split("/") for path in paths):
            return False
        source, target = paths
        if target.endswith("/"):
            target += source.rpartition("/")[2]
        self._effects.copies.append((source, target))
        return True

    def _link(self, words: Sequence[str]) -> bool:
        flags = [word for word in words if word.startswith("-")]
        paths = [self._plain(word) for word in words if not word.startswith("-")]
        if len(paths) != 2 or not flags or not all(re.fullmatch(r"-s[fnT]*|-[fnT]*s[fnT]*", flag) for flag in flags):
            return False
        target, link = paths
        if not re.fullmatch(r"/?[\w.+/-]+", target) or not re.fullmatch(r"/[\w.+/-]+[\w.+-]", link):
            return False
        if ".." in link.split("/"):
            return False
        self._effects.links.append((link, target))
        return True

    def _plain(self, word: str) -> str:
        return (
            word.replace("\\\n", "").replace("$DPKG_ROOT", "").replace("${DPKG_ROOT}", "").replace('"', "").strip("'")
        )

    def _alternative(self, words: Sequence[str]) -> bool:
        plain = [self._plain(word) for word in words]
        if "--install" not in plain:
            return True  # to remove or to show; there is nothing yet
        rest = plain[plain.index("--install") + 1 :]
        if len(rest) < 4 or not re.fullmatch(r"-?[0-9]+", rest[3]):
            return False
        priority = int(rest[3])
        triples = [rest[:3]]
        place = 4
        while place < len(rest):
            if rest[place] not in ("--slave", "--follower") or place + 4 > len(rest):
                return False
            triples.append(rest[place + 1 : place + 4])
            place += 4
        for link, name, path in triples:
            if not re.fullmatch(r"[\w.+-]+", name) or not all(
                re.fullmatch(r"/[\w.+:\[/-]+", one) and ".." not in one.split("/") for one in (link, path)
            ):
                return False
        self._effects.alternatives.extend(
            Alternative(link=link, name=name, path=path, priority=priority) for link, name, path in triples
        )
        return True
