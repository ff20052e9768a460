from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from wain.dockerbuild import DockerfileRequest
from wain.dockerfile import parse
from wain.engines import BuildEngine
from wain.handover import Edited, _ignored, edit, previews, why_no_files
from wain.platforms import Platform
from wain.supplies import without_supplies

MOUNT = "--mount=type=bind,from=wain-files,source=k,target=/dev/wain/k"
PIP = "env PIP_NO_CACHE_DIR=off PIP_FIND_LINKS=/dev/wain/k PIP_NO_INDEX=1 "
QUOTED = '"env", "PIP_NO_CACHE_DIR=off", "PIP_FIND_LINKS=/dev/wain/k", "PIP_NO_INDEX=1", '
UV = "env UV_NO_CACHE=1 UV_FIND_LINKS=/dev/wain/k UV_OFFLINE=1 "
CACHE = "env PIP_NO_CACHE_DIR=off "


def request(text: str, path: Path | None = None, *, args: Mapping[str, str] | None = None) -> DockerfileRequest:
    return DockerfileRequest(
        dockerfile=parse(text), path=path, context=Path(), build_args=args or {}, platform=Platform.parse("linux/amd64")
    )


def edited(text: str, *, source: str | None = "wain-files", args: Mapping[str, str] | None = None) -> Edited:
    """The file with every installation given the folder `k` whose wish is known."""
    asked = request(text, args=args)
    supplies = [replace(supply, key="k" if not supply.why else None) for supply in without_supplies(asked)]
    return edit(asked.dockerfile, supplies, source=source)


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        ("RUN pip install six", f"RUN {MOUNT} {PIP}pip install six"),
        (
            "RUN apt-get install -y gcc && pip install -r r.txt && rm r.txt",
            f"RUN {MOUNT} apt-get install -y gcc && {PIP}pip install -r r.txt && rm r.txt",
        ),
        (
            "RUN make \\\n # why\n && python3 -m pip wheel -w /w \\\n    six",
            f"RUN {MOUNT} make \\\n # why\n && {PIP}python3 -m pip wheel -w /w \\\n    six",
        ),
        ("RUN make\r", "RUN make\r"),
        ("RUN pip install six \\\r\n    click\r", f"RUN {MOUNT} {PIP}pip install six \\\r\n    click\r"),
        (
            '\tRUN ["pip", "install", "six"]',
            f'\tRUN {MOUNT} [{QUOTED}"pip", "install", "six"]',
        ),
        (
            "RUN <<END\nset -e\n  pip install six\nEND",
            f"RUN {MOUNT} <<END\nset -e\n  {PIP}pip install six\nEND",
        ),
        (
            "RUN --mount=type=bind,source=r.txt,target=/r.txt --network=host pip install -r /r.txt",
            f"RUN {MOUNT} --mount=type=bind,source=r.txt,target=/r.txt --network=host {PIP}pip install -r /r.txt",
        ),
        ('RUN sh -c "pip install six"', f'RUN {MOUNT} sh -c "{PIP}pip install six"'),
        ("RUN sudo -H pip install six", f"RUN {MOUNT} sudo -H {PIP}pip install six"),
        ("RUN A=b time pip install six", f"RUN {MOUNT} A=b time {PIP}pip install six"),
        (
            "RUN for p in six click; do pip install $p; done",
            f"RUN {MOUNT} for p in six click; do {PIP}pip install $p; done",
        ),
        ('RUN P="pip install -U" && $P six', f'RUN {MOUNT} P="pip install -U" && {PIP}$P six'),
        ("RUN uv pip install --system six", f"RUN {MOUNT} {UV}uv pip install --system six"),
        # What it asks for is not known before: it only keeps no cache.
        ("RUN cat r.txt | xargs pip install", f"RUN cat r.txt | xargs {CACHE}pip install"),
        ("RUN pip install $(cat r.txt)", f"RUN {CACHE}pip install $(cat r.txt)"),
        ("RUN pip install /wheels/*.whl", f"RUN {CACHE}pip install /wheels/*.whl"),
        ("RUN poetry run pip install six", f"RUN poetry run {CACHE}pip install six"),
        ("RUN uv sync --locked", "RUN env UV_NO_CACHE=1 uv sync --locked"),
        # Nothing stays of the cache, or the file says so itself.
        ("RUN --mount=type=cache,target=/root/.cache pip install $X", None),
        ("RUN pip install $X; rm -rf ~/.cache", None),
        ("RUN PIP_NO_CACHE_DIR=1 pip install $X", None),
        # Neither is done in this build.
        ("ONBUILD RUN pip install six", None),
        ("RUN pip install --no-index --find-links=/w six", None),
        ("RUN poetry install", None),
        ("RUN echo pip install six", None),
    ],
)  # fmt: skip
def test_runs_are_edited_where_they_install(run: str, wanted: str | None) -> None:
    before, after = "# top\nFROM python:3.13 AS base\n", "\nCOPY . .\n"
    assert edited(f"{before}{run}{after}").text == f"{before}{wanted or run}{after}"


def test_the_escape_directive_is_kept() -> None:
    text = "# escape=`\nFROM a\nRUN make && `\n  pip install six\n"
    assert edited(text).text == f"# escape=`\nFROM a\nRUN {MOUNT} make && `\n  {PIP}pip install six\n"


def test_build_arguments_decide_what_is_asked_for() -> None:
    text = "FROM a\nARG NAME\nRUN pip install $NAME | cat\n"
    assert MOUNT in edited(text, args={"NAME": "six"}).text


def test_without_a_source_only_the_cache_is_kept_out() -> None:
    text = "FROM a\nRUN pip install six | cat\n"
    found = edited(text, source=None)
    assert found.text == f"FROM a\nRUN {CACHE}pip install six | cat\n"
    assert found.mounts == ()


def test_two_installations_of_a_run_share_a_mount() -> None:
    assert edited("FROM a\nRUN pip install six && pip install six\n").text.count("--mount") == 1


@pytest.mark.parametrize(
    "shown",
    [
        # docker
        "RUN /bin/sh -c {m}pip install six # buildkit",
        "RUN |1 A=b /bin/sh -c make && {m}pip install six # buildkit",
        # buildah, podman
        f"/bin/sh -c {MOUNT} {{m}}pip install six:sha256:{'0' * 64}",
    ],
)
def test_history_is_as_the_file_has_it(shown: str) -> None:
    found = edited("FROM a\nRUN pip install six\n")
    wanted = shown.replace(f"{MOUNT} ", "").replace("{m}", "").partition(":sha256:")[0]
    assert found.restored(shown.replace("{m}", PIP)) == wanted
    assert found.restored(wanted) == wanted


def test_history_of_the_json_form_is_as_the_file_has_it() -> None:
    found = edited('FROM a\nRUN ["pip", "install", "six"]\n')
    assert found.restored(f"RUN {PIP}pip install six # buildkit") == "RUN pip install six # buildkit"
    assert found.restored(f'/bin/sh -c {MOUNT} [{QUOTED}"pip", "install"]') == '/bin/sh -c ["pip", "install"]'


def test_what_the_file_has_itself_stays_in_history() -> None:
    own = f"RUN make && {PIP}make all"
    found = edited(f"FROM a\nRUN pip install six\n{own}\n")
    assert own in found.text
    assert found.restored(f"{own} # buildkit") == f"{own} # buildkit"
    assert "WAIN=" not in found.restored(f"RUN {found.prefixes[0]}pip install six")


def test_other_mounts_digests_stay() -> None:
    found = edited("FROM a\nRUN --mount=type=bind,source=x,target=/x pip install six\n")
    tail = ":sha256:" + "0" * 64
    assert found.restored(f"{MOUNT} --mount=type=bind,source=x,target=/x pip{tail}").endswith(tail)
    assert not found.restored(f"{MOUNT} --mount=type=cache,target=/x pip{tail}").endswith(tail)


def test_only_a_run_that_lacked_files_is_tried_again() -> None:
    found = edited("FROM a\nRUN pip install six\n")
    failed = f'ERROR: failed to solve: process "/bin/sh -c {PIP}pip install six" did not complete successfully: exit 1'
    missing = "#5 ERROR: No matching distribution found for six"
    assert found.blamed(f"{missing}\n{failed}")
    assert not found.blamed(f"make: not found\n{failed}")
    assert not found.blamed(f'{missing}\nERROR: process "/bin/sh -c make" did not complete successfully: exit 2')


def test_a_stage_of_the_sources_name_is_not_shadowed() -> None:
    from wain.handover import _source_name

    buildx = BuildEngine(name="docker", program=Path("docker"), version="26.1", builder="docker")
    assert _source_name(parse("FROM a AS wain-files\n"), (), buildx) == "wain-files-"
    assert _source_name(parse("FROM a\n"), (), replace(buildx, builder="client")).startswith("wain-files:")


@pytest.mark.parametrize(
    ("head", "engine", "why"),
    [
        ("", {}, ""),
        ("# syntax=docker/dockerfile:1\n", {}, ""),
        ("# syntax=docker/dockerfile:1.2\n", {}, "mounts no named contexts"),
        ("# syntax=docker/dockerfile:1.2\n", {"builder": "client"}, ""),
        ("# syntax=docker/dockerfile:1.2\n", {"name": "buildah", "version": "1.39"}, ""),
        ("# syntax=host.example/own\n", {}, "front end host.example/own reads"),
        ("", {"name": "buildah", "version": "1.26.4"}, "from 1.27 on"),
        ("", {"name": "podman", "version": "4.1"}, "from 4.2 on"),
        ("", {"name": "buildah", "version": "1.39", "isolation": "chroot"}, "chroot isolation"),
    ],
)
def test_engines_and_front_ends_that_mount_nothing(head: str, engine: dict[str, str], why: str) -> None:
    given = {"name": "docker", "version": "26.1", "builder": "docker", **engine}
    found = why_no_files(parse(f"{head}FROM a\n"), BuildEngine(program=Path("x"), **given))
    assert (why in found) if why else not found


def test_outputs_stay_out_of_the_context(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*.pem\n!keep.pem")
    (tmp_path / "D").write_text("FROM a\n")
    outputs = (tmp_path / "dist/x.tar", Path("/elsewhere/y.tar"))
    asked = replace(request("FROM a\n", tmp_path / "D"), context=tmp_path, leave_out=outputs)
    assert _ignored(asked) == b"*.pem\n!keep.pem\n/dist/x.tar\n"
    (tmp_path / "D.dockerignore").write_text("all\n")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/x.tar").touch()
    # A folder that is there for the outputs alone would be copied as an empty one.
    assert _ignored(asked) == b"all\n/dist\n"
    (tmp_path / "dist/own").touch()
    assert _ignored(asked) == b"all\n/dist/x.tar\n"


def test_previews_say_what_each_installation_gets() -> None:
    text = "FROM python:3\nRUN pip install six | cat\nFROM debian\nRUN pip install six && pip install $(cat x)\n"
    shown = list(previews(request(text)).values())
    assert shown[0] == ["pip install six gets its wheels from the store"]
    assert shown[1][0] == "pip install six gets its wheels from the store if the base has its Python"
    assert "asks the index itself: a word of it is known to its shell only" in shown[1][1]
