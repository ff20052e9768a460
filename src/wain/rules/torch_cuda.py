"""torch with CUDA where there is no CUDA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wain.pip_commands import pip_call
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Run, Severity
from wain.trace import span_of

_NAMES = frozenset({"torch", "torchvision", "torchaudio"})
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(.*)")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """torch from the default index on a base that has nothing to do with CUDA."""
    for run in subject.trace.runs():
        if run.stage.ships == "discarded" or _wants_cuda(run):
            continue
        for call in run.calls:
            pip = pip_call(call.argv)
            is_uv = call.program == "uv" and call.argv[1:3] == ("pip", "install")
            if not is_uv and (pip is None or pip.verb != "install"):
                continue
            if any((call.env.get(name) or "") for name in _INDEXES) or any(
                (word or "").partition("=")[0] in _FLAGS for word in call.argv
            ):
                continue
            for index, word in enumerate(call.argv[1:], 1):
                match = _REQUIREMENT.fullmatch(word or "")
                if match is None or match.group(1).lower() not in _NAMES or "+cpu" in match.group(2):
                    continue
                source = call.words[index]
                yield subject.finding(
                    RULE,
                    source.span if source is not None else span_of(run, call),
                    f"the default index's {match.group(1)} brings CUDA's libraries, which this base has no use for",
                    run.holder,
                    estimate="about 4 GB",
                )
                break


_INDEXES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_TORCH_BACKEND",
    "UV_FIND_LINKS",
)
_FLAGS = frozenset(
    "--index-url -i --extra-index-url --find-links -f --index --default-index --torch-backend --platform".split()
)


def _wants_cuda(run: Run) -> bool:
    image = run.stage.root_image
    if image is None or run.stage.base.cuda:
        return True
    lowered = image.lower()
    return (
        any(mark in lowered for mark in ("cuda", "nvidia", "gpu", "torch", "rocm"))
        or any(name.startswith(("NVIDIA_", "CUDA_")) for name in run.env)
        or any("$" in stage.image for stage in [run.stage.stage] if run.stage.image is None)
    )


RULE = Rule(
    id="torch-cuda",
    severity=Severity.WARNING,
    title="CUDA build of torch on a base without CUDA",
    cost=(
        "About 4 GB unpacked: torch's CPU wheel is 192 MB compressed and 700 MB unpacked, "
        "the CUDA build brings the nvidia packages on top."
    ),
    why=(
        "On Linux the default index has torch with CUDA. On a base without CUDA, and on "
        "machines without its driver, none of it is used."
    ),
    mend=("Name torch's CPU index with `--index-url` (or `--torch-backend cpu` in uv)."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pip install --no-cache-dir torch\n",
        fixed=("FROM python:3.13-slim\nRUN pip install --no-cache-dir --index-url https://index.example/cpu torch\n"),
        good=("FROM nvidia/cuda:12.4.0-runtime-ubuntu22.04\nRUN pip install --no-cache-dir torch\n",),
    ),
    hadolint=(),
)
