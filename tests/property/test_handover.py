"""Dockerfiles edited for an engine: they parse, and differ in the RUNs that install alone."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.go_parser import official_rows
from tests.unit.rules.samples import SAMPLES
from wain.dockerbuild import DockerfileRequest
from wain.dockerfile import parse
from wain.errors import DockerfileError
from wain.handover import edit
from wain.platforms import Platform
from wain.supplies import without_supplies

_INSTALLS = [
    "pip install six",
    "pip3 install -r r.txt",
    "python -m pip wheel -w /w six",
    "/opt/venv/bin/pip install $X",
    "uv pip install --system six",
    "uv sync",
    "sudo pip install six",
    "env A=b pip install 'six<2'",
    'sh -c "pip install six"',
    "echo pip install six",
    "P='pip install' && $P six",
    "xargs pip install <r.txt",
]
_JOINTS = [" && ", "; ", " || ", " | ", " && \\\n    ", " && \\\n# why\n  ", " && \\\r\n"]
_HEADS = [
    "RUN ",
    "run ",
    "RUN --mount=type=cache,target=/root/.cache ",
    "RUN --network=host ",
    "ONBUILD RUN ",
    "RUN \\\n ",
]
_SHELL = st.lists(
    st.sampled_from([*_INSTALLS, "make", "rm -rf /root/.cache", "for a in b c; do pip install $a; done"]),
    min_size=1,
    max_size=4,
)
_RUNS = st.one_of(
    st.tuples(st.sampled_from(_HEADS), _SHELL, st.sampled_from(_JOINTS)).map(
        lambda made: made[0] + made[2].join(made[1])
    ),
    _SHELL.map(lambda words: "RUN <<END\n" + "\n".join(words) + "\nEND"),
    st.sampled_from(['RUN ["pip", "install", "six"]', 'RUN [ "sh" , "-c", "pip install six" ]', 'RUN ["uv","sync"]']),
)
_OTHERS = st.sampled_from(
    ["ENV A=b", "COPY . .", "# comment", "", "USER app", 'SHELL ["/bin/bash", "-c"]', "FROM b AS c"]
)
_FILES = st.one_of(
    st.sampled_from([sample.text for sample in SAMPLES]),
    st.lists(st.one_of(_RUNS, _OTHERS), max_size=6).map(lambda lines: "\n".join(["FROM a", *lines, ""])),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_FILES, st.booleans())
def test_an_edited_file_differs_in_its_installations_alone(text: str, with_files: bool) -> None:
    assert_edited(text, with_files=with_files)


def assert_edited(text: str, *, with_files: bool) -> None:
    try:
        before = parse(text)
        before.validate()
    except DockerfileError:
        return
    request = DockerfileRequest(dockerfile=before, path=None, context=Path(), platform=Platform.parse("linux/amd64"))
    supplies = [replace(supply, key="k" if not supply.why else None) for supply in without_supplies(request)]
    edited = edit(before, supplies, source="wain-files" if with_files else None)
    after = parse(edited.text)
    after.validate()
    assert (official_rows(edited.text) is None) == (official_rows(text) is None)
    installing = {id(supply.install.instruction) for supply in supplies}
    assert len(after.instructions) == len(before.instructions)
    for old, new in zip(before.instructions, after.instructions, strict=True):
        assert (old.keyword, old.line, old.end_line) == (new.keyword, new.line, new.end_line)
        was, found = before.source(old.span), after.source(new.span)
        if id(old) not in installing:
            assert was == found
            continue
        assert old.keyword == "RUN"
        for piece in (*(f" {mount}" for mount in edited.mounts), *edited.prefixes):
            found = found.replace(piece, "")
        assert found == was
    assert bool(edited.mounts) == (with_files and any(supply.key for supply in supplies))
