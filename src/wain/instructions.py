"""Each instruction of a Dockerfile, done on a stage.

Source: Dockerfile reference.
"""

from __future__ import annotations

from wain.configure import SETTINGS
from wain.copysteps import copy
from wain.dockerfile import Instruction
from wain.runsteps import run
from wain.stage import Sources, StageBuild


def apply(stage: StageBuild, instruction: Instruction, sources: Sources) -> None:
    """Do one instruction.

    :raises NeedsEngine: when it has to be run.
    :raises DockerfileError: when it would fail, with its line.
    """
    if instruction.keyword == "RUN":
        run(stage, instruction, sources)
    elif instruction.keyword in {"COPY", "ADD"}:
        copy(stage, instruction, sources)
    else:
        SETTINGS[instruction.keyword](stage, instruction)
    stage.scope.apply(instruction)
