"""What one command of a RUN does to the stage: caches filled, files removed or written, users made."""

from __future__ import annotations

import json
import re

from msgspec.structs import replace

from wain.installers import cache_use, cleaned_folders, is_tool
from wain.invocation import CacheUse, Invocation
from wain.paths import absolute, covers, expand_braces
from wain.pip_commands import pip_call, pip_config_paths
from wain.python_tools import POETRY_CONFIG
from wain.trace import CONFIGURATIONS, Removal, Run, Use, User
from wain.walk import Call


class Effects:
    """Takes in each call of a RUN: caches, removals, files written, users made."""

    def __init__(self, run: Run, *, is_bash: bool) -> None:
        self.run = run
        self.stage = run.stage
        self.is_bash = is_bash

    def call(self, call: Call) -> None:
        self.files(call)
        program = call.program
        if is_tool(program):
            files = self.stage.files
            invocation = Invocation(argv=call.argv, env=call.env, home=call.home, files=files, cwd=call.cwd)
            use = cache_use(invocation)
            if use is not None:
                self.run.uses.append(Use(cache=self.once(use), call=call))
            else:
                for folder in cleaned_folders(invocation):
                    self.removal(folder, call)
        elif program in {"rm", "rmdir", "unlink", "shred"}:
            for value in call.argv[1:]:
                if value is not None and not value.startswith("-"):
                    self.paths(value, call)
        elif program == "find":
            self.find(call)
        elif program in {"useradd", "adduser", "usermod"}:
            self.useradd(call)

    def once(self, use: CacheUse) -> CacheUse:
        """Without virtualenv's folder where the environment is made already."""
        if not any(map(_is_virtualenv, use.folders)):
            return use
        runs = (run for stage in (self.stage, *self.stage.ancestors()) for run in stage.runs)
        if not any(map(_is_virtualenv, (folder for run in runs for one in run.uses for folder in one.cache.folders))):
            return use
        return replace(use, folders=tuple(folder for folder in use.folders if not _is_virtualenv(folder)))

    def paths(self, value: str, call: Call) -> None:
        patterns = expand_braces(value) if self.is_bash else [value]
        for pattern in patterns:
            path = absolute(pattern, call.cwd)
            if path is not None:
                self.removal(path, call)

    def removal(self, pattern: str, call: Call) -> None:
        self.run.removals.append(Removal(pattern=pattern, branch=call.branch, order=call.order, call=call))
        if pattern.startswith("/etc/apt/apt.conf.d/docker-clean"):
            self.stage.files["/etc/apt/apt.conf.d/docker-clean"] = ""
        for path in list(self.stage.files):
            if not path.endswith("docker-clean") and covers(pattern, path):
                del self.stage.files[path]

    def find(self, call: Call) -> None:
        words = call.argv[1:]
        deletes = "-delete" in words or any(
            word in {"-exec", "-execdir"} and index + 1 < len(words) and words[index + 1] in {"rm", "/bin/rm"}
            for index, word in enumerate(words)
        )
        if not deletes or any(word in {"-name", "-iname", "-path", "-mtime", "-newer"} for word in words):
            return
        for word in words:
            if word is None or word.startswith(("-", "(", "!")):
                break
            self.paths(word, call)

    def useradd(self, call: Call) -> None:
        valued = {"-d", "--home", "--home-dir", "-h", "-u", "--uid", "-g", "--gid", "-G", "--groups", "-s", "--shell"}
        valued |= {"-c", "--comment", "--gecos", "-k", "--ingroup", "-b", "--base-dir", "-K", "-p", "--password", "-l"}
        home: str | None = None
        uid: str | None = None
        name: str | None = None
        busybox = call.program == "adduser"
        arguments = list(call.argv[1:])
        index = 0
        while index < len(arguments):
            word = arguments[index]
            index += 1
            if word is None:
                continue
            key, equals, value = word.partition("=")
            if word.startswith("-"):
                takes = key in valued and not (key == "-l" and call.program == "useradd") and not equals
                following = arguments[index] if takes and index < len(arguments) else None
                given = value if equals else following
                if takes:
                    index += 1
                elif not word.startswith("--") and word[-1:] in "dugGsch" and len(word) > 2:
                    # Joined switches, of which the last takes a value: useradd -mu 1000 app.
                    given = arguments[index] if index < len(arguments) else None
                    index += 1
                    key = f"-{word[-1]}"
                if key in {"-d", "--home", "--home-dir"} or (key == "-h" and busybox):
                    if key != "-d" or not busybox:
                        home = given
                elif key in {"-u", "--uid"}:
                    uid = given
            elif name is None:
                name = word
        if name is None:
            return
        users = self.stage.users
        before = users.get(name)
        if call.program == "usermod" and before is not None:
            home, uid = home or before.home, uid or before.uid
        users[name] = User(name=name, uid=uid, home=home or f"/home/{name}")

    def files(self, call: Call) -> None:
        """Text that `echo`, `printf` or a here-document writes to a configuration file."""
        files = self.stage.files
        for redirection in call.redirections:
            if redirection.operator not in {">", ">>", ">|", "&>"} or redirection.target is None:
                continue
            if redirection.descriptor not in {"", "1"}:
                continue
            path = absolute(redirection.target.value(call.env), call.cwd)
            if path is None or path.rpartition("/")[2] not in {"pip.conf", "uv.toml", ".pypirc", ".netrc"}:
                continue
            text = call.output()
            if redirection.operator == ">>" and path in files:
                earlier = files[path]
                text = earlier + text if earlier is not None and text is not None else None
            files[path] = text
        if call.program == "tee":
            for value in call.argv[1:]:
                path = absolute(value, call.cwd) if value and not value.startswith("-") else None
                if path and path.rpartition("/")[2] in CONFIGURATIONS:
                    files[path] = call.piped_output
        if "config" in call.argv:
            self.pip_config(call)
            self.poetry_config(call)

    def poetry_config(self, call: Call) -> None:
        words = [word for word in call.argv[1:] if word is None or not word.startswith("-")]
        if call.program != "poetry" or words[:1] != ["config"] or len(words) < 3 or "--unset" in call.argv:
            return
        invocation = Invocation(argv=call.argv, env=call.env, home=call.home, files={}, cwd=call.cwd)
        is_local = "--local" in call.argv
        path = invocation.path("poetry.toml") if is_local else invocation.config_home(POETRY_CONFIG)
        before = self.stage.files.get(path, "")
        key, value = words[1], words[2]
        if before is not None and key is not None and re.fullmatch(r"[a-z.-]+", key):
            text = f"{key} = {json.dumps(value)}\n" if value is not None else None
            self.stage.files[path] = f"{text}{before}" if text is not None and key not in before else text

    def pip_config(self, call: Call) -> None:
        pip = pip_call(call.argv)
        if pip is None or pip.verb != "config":
            return
        operands = [operand for operand in pip.operands if operand is not None]
        if operands[:1] != ["set"] or len(operands) < 3 or "." not in operands[1]:
            return
        section, _, key = operands[1].partition(".")
        invocation = Invocation(argv=call.argv, env=call.env, home=call.home, files={}, cwd=call.cwd)
        flags = {word for word in call.argv if word in {"--global", "--site", "--user"}}
        if "--global" in flags:
            path = "/etc/pip.conf"
        elif "--site" in flags:
            path = next(iter(pip_config_paths(invocation)), "/usr/local/pip.conf")
        else:
            path = next(
                (one for one in pip_config_paths(invocation) if "/.config/" in one or one.endswith("/pip/pip.conf")),
                "/etc/pip.conf",
            )
        before = self.stage.files.get(path, "")
        if before is not None:
            self.stage.files[path] = f"[{section}]\n{key} = {operands[2]}\n{before}"


def _is_virtualenv(folder: str) -> bool:
    return folder.endswith("/virtualenv")
