from __future__ import annotations

from collections.abc import Mapping

import pytest

from wain.account_words import account_action
from wain.accounts import add_account
from wain.actions import Account, Echo, NeedsEngine
from wain.classify import classify, file_command
from wain.echoing import echo_text
from wain.filework import Actor, CommandFails, do
from wain.find_words import find_action
from wain.finding import find
from wain.tree import Data, Node, Tree

ROOT = Actor(uid=0, gid=0, cwd="/w", passwd="", group="g:x:7:\n", now=86400 * 3)


def tree_of(*paths: str) -> Tree:
    tree = Tree()
    tree.make_folders("w")
    for path in paths:
        if path.endswith("/"):
            tree.make_folders(path)
        else:
            tree.make_folders(path.rpartition("/")[0])
            tree.put(path, Node(kind="file", mode=0o644, content=Data(b"")))
    return tree


def names(tree: Tree) -> list[str]:
    return [path for path, _ in tree.walk()]


def done(tree: Tree, *words: str) -> list[str]:
    action = find_action(words, file_command)
    find(tree, action, [words[index] for index in action.folders], ROOT)
    return names(tree)


def test_find_removes_what_fits() -> None:
    assert done(tree_of("w/a/__pycache__/x.pyc", "w/b.py"), *"find . -name __pycache__ -exec rm -rf {} +".split()) == [
        "w",
        "w/a",
        "w/b.py",
    ]
    words = "find /w ( -name *.pyc -o -name *.pyo ) -a ! -path */keep/* -delete"
    assert done(tree_of("w/a.pyc", "w/keep/b.pyc", "w/c.pyo"), *words.split()) == ["w", "w/keep", "w/keep/b.pyc"]
    assert done(tree_of("w/a/b/"), *"find /w -mindepth 1 -type d -empty -delete".split()) == ["w"]
    assert done(tree_of("w/a/x", "w/x"), *"find /w -maxdepth 1 -name x -exec rm {} ;".split()) == ["w", "w/a", "w/a/x"]
    assert done(tree_of("w/a/x", "w/x"), *"find /w -name a -prune -o -name x -exec rm {} ;".split()) == [
        "w",
        "w/a",
        "w/a/x",
    ]


def test_find_says_what_failed_after_all_that_it_could_do() -> None:
    tree = tree_of("w/a/x/y", "w/b/x/y")
    with pytest.raises(CommandFails, match="removed before it was looked into"):
        done(tree, *"find /w -name x -exec rm -rf {} ;".split())
    assert names(tree) == ["w", "w/a", "w/b"]
    with pytest.raises(CommandFails, match="there is no /gone"):
        done(tree, *"find /gone /w -name a -exec rmdir {} ;".split())
    with pytest.raises(CommandFails, match="no empty folder"):
        done(tree_of("w/a/x"), *"find /w -name a -delete".split())


@pytest.mark.parametrize(
    ("words", "dash", "bash"),
    [
        (("echo", "a\\tb", "c"), "a\tb c\n", "a\\tb c\n"),
        (("echo", "-n", "a\\\\"), "a\\", "a\\\\"),
        (("echo", "-e", "a\\n"), "-e a\n\n", "a\n\n"),
        (("echo", "-neE", "\\n"), "-neE \n\n", "\\n"),
        (("echo", "\\0101\\q"), "A\\q\n", "\\0101\\q\n"),
        (("printf", "%s-%d\\n", "a", "1", "b"), "a-1\nb-", None),
        (("printf", "50%%\\101"), "50%A", "50%A"),
    ],
)
def test_shells_write_what_they_make_of_words(words: tuple[str, ...], dash: str, bash: str | None) -> None:
    action = classify(words, {}, "/", writes=True)
    assert isinstance(action, Echo)
    if bash is not None:
        assert echo_text(action, "usr/bin/dash") == dash
        assert echo_text(action, "bin/bash") == bash
    else:
        with pytest.raises(NeedsEngine):
            echo_text(action, "bin/dash")
    if action.words:
        with pytest.raises(NeedsEngine):
            echo_text(action, "bin/busybox")


def test_install_makes_folders_and_copies() -> None:
    tree = tree_of("w/a", "w/there/")
    for text in ("install -d -m 700 -g g d/e there", "install -m 640 a there", "install -D a new/deep/b"):
        words = text.split()
        action = file_command(words)
        do(tree, action, [words[index] for index in action.operands], ROOT)
    found = {path: (node.mode, node.gid) for path, node in tree.walk()}
    assert found["w/d"] == (0o755, 0)
    assert found["w/d/e"] == found["w/there"] == (0o700, 7)
    assert found["w/there/a"] == (0o640, 0)
    assert found["w/new/deep/b"] == (0o755, 0)
    with pytest.raises(CommandFails, match="no file"):
        do(tree, file_command(["install", "none", "x"]), ["none", "x"], ROOT)


BASE = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nteam:x:1500:\n",
    "etc/shadow": "root:*:1:0:99999:7:::\n",
    "etc/gshadow": "root:*::\nteam:!::\n",
    "etc/subuid": "",
    "etc/login.defs": "UID_MIN 1000\nUSERGROUPS_ENAB yes\nHOME_MODE 0700\n"
    "PASS_MAX_DAYS 99999\nPASS_MIN_DAYS 0\nPASS_WARN_AGE 7\n",
    "etc/default/useradd": "SHELL=/bin/sh\n",
    "etc/skel/.profile": "p",
    "var/lib/dpkg/status": "Package: passwd\nStatus: install ok installed\nVersion: 1:4.17.4-2\n\n",
}


def base(changes: Mapping[str, str] | None = None) -> Tree:
    tree = tree_of("usr/sbin/useradd", "usr/sbin/groupadd", "usr/sbin/usermod", "home/")
    for name in ("useradd", "groupadd", "usermod"):
        tree.own(f"usr/sbin/{name}").mode = 0o755
    for path, text in {**BASE, **(changes or {})}.items():
        tree.make_folders(path.rpartition("/")[0])
        data = text.encode()
        tree.put(path, Node(kind="file", mode=0o640, size_bytes=len(data), content=Data(data)))
    return tree


def account(tree: Tree, text: str, actor: Actor = ROOT) -> Account:
    words = text.split()
    action = account_action(words[0], words)
    add_account(action, tree, {"PATH": "/usr/sbin"}, actor)
    return action


def last(tree: Tree, path: str) -> str:
    return (tree.text(path) or "").splitlines()[-1]


def test_users_and_groups_are_added() -> None:
    tree = base()
    account(tree, "useradd -rms /bin/bash -c Robot robot")
    assert last(tree, "etc/passwd") == "robot:x:999:999:Robot:/home/robot:/bin/bash"
    assert last(tree, "etc/shadow") == "robot:!:3::::::"
    assert last(tree, "etc/group") == "robot:x:999:"
    assert tree.text("etc/passwd-") == BASE["etc/passwd"]
    home = tree.get("home/robot")
    assert home is not None and (home.mode, home.uid, home.gid) == (0o700, 999, 999)
    account(tree, "useradd -G team,robot ann")
    assert last(tree, "etc/passwd") == "ann:x:1000:1000::/home/ann:/bin/sh"
    assert last(tree, "etc/shadow") == "ann:!:3:0:99999:7:::"
    assert tree.text("etc/gshadow") == "root:*::\nteam:!::ann\nrobot:!::ann\nann:!::\n"
    assert tree.text("etc/subuid") == "ann:100000:65536\n"
    assert tree.get("home/ann") is None
    account(tree, "usermod --append --groups root ann")
    assert (tree.text("etc/group") or "").startswith("root:x:0:ann\n")
    account(tree, "groupadd --gid 77 more")
    assert last(tree, "etc/group") == "more:x:77:"
    account(tree, "groupadd other")
    assert last(tree, "etc/group") == "other:x:1501:"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("useradd root", "exists already"),
        ("useradd team", "the group team exists already"),
        ("useradd -u 0 x", "not unique"),
        ("useradd -g nowhere x", "there is no group nowhere"),
        ("groupadd team", "exists already"),
        ("usermod -aG team nobody", "there is no user nobody"),
    ],
)
def test_accounts_that_cannot_be_added(text: str, reason: str) -> None:
    with pytest.raises(CommandFails, match=reason):
        account(base(), text)


@pytest.mark.parametrize(
    ("changes", "text", "reason"),
    [
        ({"var/lib/dpkg/status": "Package: passwd\nVersion: 1:4.13\n\n"}, "useradd x", "1:4.13"),
        ({}, "useradd X", "rules of its own"),
        ({}, "useradd -N x", "default group"),
        ({"etc/passwd": "m:x:500:0::/:\n"}, "useradd -r x", "more than one choice"),
        ({"etc/login.defs": "CREATE_HOME yes\n"}, "useradd x", "homes"),
        ({"etc/nsswitch.conf": "passwd: files sss\n"}, "useradd x", "elsewhere"),
        ({"etc/group": "+\n"}, "groupadd x", "none of its own"),
    ],
)
def test_what_the_base_does_not_decide_has_to_be_run(changes: dict[str, str], text: str, reason: str) -> None:
    with pytest.raises(NeedsEngine, match=reason):
        account(base(changes), text)
    with pytest.raises(CommandFails, match="may not change accounts"):
        account(base(), "useradd x", Actor(uid=5, gid=5, cwd="/", passwd="", group="", now=0))
