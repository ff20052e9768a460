"""All package tools whose caches are known: what a command line fills, and what it empties.

Pure functions of arguments, environment, home and configuration; nothing is run.
"""

from __future__ import annotations

import functools

from wain.invocation import CacheUse, Invocation, Tool, is_pip, is_python, python_module
from wain.package_tools import APK, APT, CONDA, DNF, NPM, PIXI
from wain.pip_commands import PIP
from wain.python_tools import PDM, PIPENV, PIPX, POETRY, UV

TOOLS = (PIP, UV, POETRY, PDM, PIPENV, PIPX, CONDA, PIXI, APT, APK, DNF, NPM)
_BY_PROGRAM = {program: tool for tool in TOOLS for program in tool.programs}
_BY_MODULE = {tool.module: tool for tool in TOOLS if tool.module is not None}


@functools.lru_cache(maxsize=4096)
def is_tool(program: str) -> bool:
    """Whether a program's name may be a package tool's, so that the other functions have something to say."""
    return program in _BY_PROGRAM or is_pip(program) or is_python(program)


def cache_use(call: Invocation) -> CacheUse | None:
    """The cache that a command fills, or would fill were it on; None where it is no such command."""
    found = _tool(call)
    return found[0].use(found[1]) if found is not None else None


def cleaned_folders(call: Invocation) -> tuple[str, ...]:
    """The folders that a tool's own clean command empties: `pip cache purge`, `uv cache clean`, `apt-get clean`, ..."""
    found = _tool(call)
    return found[0].cleaned(found[1]) if found is not None else ()


def _tool(call: Invocation) -> tuple[Tool, Invocation] | None:
    """The tool that a command is, with the command line that begins with its name."""
    program = call.program
    if is_pip(program):
        return PIP, call
    if not is_python(program):
        tool = _BY_PROGRAM.get(program)
        return (tool, call) if tool is not None else None
    module = python_module(call.argv)
    tool = _BY_MODULE.get(module[0]) if module is not None else None
    if module is None or tool is None:
        return None
    # Where pip's interpreter lies decides which of its files are read.
    return tool, call if tool is PIP else call.with_argv(module[0], *call.argv[module[1] + 1 :])
