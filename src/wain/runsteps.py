"""RUN of a Dockerfile, done on a stage: its commands one after the other, with what it mounts.

Sources: Dockerfile reference (RUN); POSIX.1-2024, Shell Command Language.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from wain.accounts import add_account
from wain.actions import (
    Account,
    Activate,
    CompileAll,
    Echo,
    Fails,
    FileCommand,
    Find,
    Look,
    NeedsEngine,
    Nothing,
    PipConfig,
    PipInstall,
    PipUninstall,
    UvSync,
    Venv,
)
from wain.bytesteps import compile_all
from wain.dockerfile import Instruction
from wain.echoing import echo_text
from wain.filework import Actor, CommandFails, do, expand_pattern, joined_raw, write_file
from wain.finding import find
from wain.mounting import put_mounts, take_out
from wain.pipsteps import pip_install, pip_uninstall
from wain.shell import run_script
from wain.stage import Sources, StageBuild
from wain.steps import DEFAULT_PATH, RunCommand, ShellVariables, run_commands
from wain.tree import Tree
from wain.uvsteps import uv_sync
from wain.venvs import make_venv


def run(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    """Do the commands of a RUN.

    :raises NeedsEngine: at the first that has to be run.
    :raises DockerfileError: when one would fail.
    """
    before = stage.tree.mark()
    try:
        uid, gid, home = stage.user()
    except CommandFails as error:
        raise stage.fail(instruction, str(error)) from error
    values = {name: value for name, value in stage.scope.variables().items() if value is not None}
    values.setdefault("HOME", home)
    values.setdefault("PATH", DEFAULT_PATH)
    mounted = put_mounts(stage, instruction, sources, values)
    try:
        commands = list(run_commands(instruction, ShellVariables(values), stage.workdir(), stage.shell))
        if not instruction.is_json and commands:
            _need_shell(stage)
        failed = 0
        for command in commands:
            if command.attempt and command.attempt == failed:
                continue
            actor_home = command.env.get("HOME", home)
            passwd, group = stage.accounts()
            actor = Actor(uid=uid, gid=gid, cwd=command.cwd, passwd=passwd, group=group, now=stage.now)
            try:
                _do(stage, command, actor, {**command.env, "HOME": actor_home})
            except CommandFails as error:
                if not command.attempt:
                    raise
                failed = command.attempt
                if isinstance(command.action, PipInstall | UvSync | Venv):
                    raise NeedsEngine(str(error)) from error
        take_out(stage, mounted)
    except CommandFails as error:
        raise stage.fail(instruction, f"RUN would fail: {error}", "Mend the command.") from error
    text = _run_text(stage, instruction)
    listed = [f"{name}={value}" for name in stage.args if (value := stage.scope.variables().get(name)) is not None]
    arguments = [f"|{len(listed)}", *listed] if listed else []
    stage.record(" ".join(["RUN", *arguments, *text, "# buildkit"]), before)


def _need_shell(stage: StageBuild) -> None:
    node = stage.tree.find(stage.shell[0])
    if node is None:
        raise CommandFails(f"the image has no {stage.shell[0]}")


def _run_text(stage: StageBuild, instruction: Instruction) -> tuple[str, ...]:
    if instruction.is_json:
        return instruction.values
    script = run_script(instruction, stage.shell)
    text = script.text if script is not None and instruction.heredocs else instruction.arguments
    return (*stage.shell, text)


def _do(stage: StageBuild, command: RunCommand, actor: Actor, env: Mapping[str, str]) -> None:
    action = command.action
    tree = stage.tree
    if command.output is not None:
        if _operands(command, sorted(command.patterns), tree, actor) != [
            command.argv[at] for at in sorted(command.patterns)
        ]:
            raise NeedsEngine("the shell writes what its patterns name")
        text = echo_text(action, stage.tree.resolve(stage.shell[0])) if isinstance(action, Echo) else ""
        operator, path = command.output
        write_file(tree, path, text.encode("utf-8", "surrogateescape"), actor, append=operator == ">>")
        return
    if isinstance(action, Fails):
        raise CommandFails(action.told)
    if isinstance(action, Nothing | Echo):
        if command.argv[0] == "cd":
            node = tree.find(command.cwd)
            if node is None or node.kind != "directory":
                raise CommandFails(f"cd: there is no folder {command.argv[1]}")
        return
    if isinstance(action, FileCommand):
        do(tree, action, _operands(command, action.operands, tree, actor), actor)
    elif isinstance(action, Look):
        for operand in _operands(command, action.operands, tree, actor):
            if tree.find(joined_raw(actor.cwd, operand)) is None:
                raise CommandFails(f"{command.argv[0]}: {operand} is not there")
    elif isinstance(action, Find):
        rest = range(len(action.folders) + 1, len(command.argv))
        if any(
            index in command.patterns and expand_pattern(tree, command.argv[index], actor.cwd) != [command.argv[index]]
            for index in rest
        ):
            raise NeedsEngine("find's patterns are expanded by the shell")
        find(tree, action, _operands(command, action.folders, tree, actor), actor)
    elif isinstance(action, Activate):
        if action.is_source and tree.resolve(stage.shell[0]).endswith("/dash"):
            raise CommandFails("source: dash has no such command; write a dot")
        root = posixpath.dirname(posixpath.dirname(joined_raw(actor.cwd, action.script)))
        if tree.find(f"{root}/pyvenv.cfg") is None or tree.find(joined_raw(actor.cwd, action.script)) is None:
            raise CommandFails(f"{action.script} is no script of an environment")
    elif isinstance(action, Account):
        add_account(action, tree, env, actor)
    elif isinstance(action, PipUninstall):
        pip_uninstall(action, tree, stage.facts(), env, actor)
    elif isinstance(action, PipConfig):
        _pip_config(stage, action, actor, env)
    elif isinstance(action, Venv):
        stage.wheels += make_venv(action, tree, stage.facts(), env, actor, stage.tools)
    elif isinstance(action, PipInstall):
        stage.wheels += pip_install(action, tree, stage.facts(), env, actor, stage.tools)
    elif isinstance(action, CompileAll):
        compile_all(action, tree, stage.facts(), env, actor, stage.tools.store)
    elif isinstance(action, UvSync):
        stage.wheels += uv_sync(action, tree, stage.facts(), env, actor, stage.tools)
    else:
        raise NeedsEngine(f"{command.argv[0]} has to be run")


def _operands(command: RunCommand, indexes: Iterable[int], tree: Tree, actor: Actor) -> list[str]:
    """Words of a command with their patterns expanded."""
    found: list[str] = []
    for index in indexes:
        word = command.argv[index]
        found += expand_pattern(tree, word, actor.cwd) if index in command.patterns else [word]
    return found


def _pip_config(stage: StageBuild, action: PipConfig, actor: Actor, env: Mapping[str, str]) -> None:
    if action.scope == "site":
        raise NeedsEngine("pip config --site has to be run")
    home = env.get("XDG_CONFIG_HOME") or f"{env.get('HOME', '/root')}/.config"
    path = "/etc/pip.conf" if action.scope == "global" else f"{home}/pip/pip.conf"
    if stage.tree.find(path) is not None:
        raise NeedsEngine("pip config of a file that is there already has to be run")
    folder = posixpath.dirname(path)
    done = ""
    for part in folder.strip("/").split("/"):
        done = f"{done}/{part}"
        if stage.tree.find(done) is None:
            # pip makes its folder for the user alone.
            stage.tree.make_folders(done, mode=0o755, uid=actor.uid, gid=actor.gid)
    sections: dict[str, list[str]] = {}
    for name, value in action.values:
        section, _, key = name.partition(".")
        if not key:
            raise CommandFails(f"pip config: {name} has no section")
        sections.setdefault(section, []).append(f"{key} = {value}\n")
    text = "".join(f"[{section}]\n{''.join(lines)}\n" for section, lines in sections.items())
    write_file(stage.tree, path, text.encode(), actor, append=False)
