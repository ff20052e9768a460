"""RUN of a Dockerfile, done on a stage: its commands one after the other, with what it mounts.

Sources: Dockerfile reference (RUN); POSIX.1-2024, Shell Command Language.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from wain.actions import CompileAll, Echo, Fails, FileCommand, NeedsEngine, Nothing, PipConfig, PipInstall, UvSync, Venv
from wain.bytesteps import compile_all
from wain.dockerfile import Instruction
from wain.filework import Actor, CommandFails, do, expand_pattern, write_file
from wain.mounting import put_mounts, take_out
from wain.pipsteps import pip_install
from wain.pythons import DEFAULT_PATH
from wain.shell import run_script
from wain.stage import Sources, StageBuild
from wain.steps import RunCommand, ShellVariables, run_commands
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
        text = action.text if isinstance(action, Echo) else ""
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
        operands: list[str] = []
        for index in action.operands:
            word = command.argv[index]
            operands += expand_pattern(tree, word, actor.cwd) if index in command.patterns else [word]
        do(tree, action, operands, actor)
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
