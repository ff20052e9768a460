"""`wain build -f`: what its flags mean, from the command line."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from wain.commands.main import main
from wain.image import Image, Index, check_image
from wain.transfer import read_image

FILE = """\
ARG TOP=top
FROM scratch AS first
ARG GIVEN=default
ARG TAKEN
ARG TARGETARCH
ENV GIVEN=$GIVEN TAKEN=$TAKEN ARCH=$TARGETARCH
LABEL mine=file both=file
COPY a /a
FROM first AS second
COPY b /b
"""


BUILD = ("build", "-q", "--engine", "none", "-f", "Dockerfile")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(FILE)
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WAIN_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def build(*words: str) -> Image:
    assert main([*BUILD, *words, "-o", "oci:out", "."]) == 0
    image = read_image("oci:out")
    assert isinstance(image, Image)
    check_image(image)
    return image


def test_arguments_come_from_flags_and_the_environment(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build().config.runtime.environment()["GIVEN"] == "default"
    monkeypatch.setenv("TAKEN", "from here")
    found = build("--build-arg", "GIVEN=a=b", "--build-arg", "TAKEN", "--build-arg", "ABSENT").config.runtime
    assert (found.environment()["GIVEN"], found.environment()["TAKEN"]) == ("a=b", "from here")
    assert found.environment()["ARCH"] in {"amd64", "arm64"}


def test_targets_are_named_or_numbered(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [len(build(*words).layers) for words in ((), ("--target", "FIRST"), ("--target=0",), ("--target=1",))] == [
        2,
        1,
        1,
        2,
    ]
    assert main(["build", "-f", "Dockerfile", "--target", "third", "."]) != 0
    assert "It has: first, second." in capsys.readouterr().err


def test_labels_of_flags_win(context: Path) -> None:
    labels = build("--label", "both=flag", "--label", "new=x").config.runtime.labels
    assert labels == {"mine": "file", "both": "flag", "new": "x"}


def test_tags_name_the_image_in_an_archive(context: Path) -> None:
    assert main([*BUILD, "-t", "one:1", "--tag", "registry.example/two:2", "-o", "x.tar"]) == 0
    with tarfile.open("x.tar") as archive:
        stream = archive.extractfile("manifest.json")
        assert stream is not None
        assert json.load(stream)[0]["RepoTags"] == ["docker.io/library/one:1", "registry.example/two:2"]


def test_several_platforms_make_an_index(context: Path) -> None:
    assert main([*BUILD, "--platform", "linux/amd64,linux/arm64", "-o", "oci:out"]) == 0
    index = read_image("oci:out")
    assert isinstance(index, Index)
    found = {str(image.platform): image.config.runtime.environment()["ARCH"] for image in index.images}
    assert found == {"linux/amd64": "amd64", "linux/arm64": "arm64"}


def test_without_a_cache_none_is_made(context: Path, tmp_path: Path) -> None:
    with_one = build().digest
    assert (tmp_path / "cache").exists()
    before = sorted(path for path in (tmp_path / "cache").rglob("*"))
    assert build("--no-cache-dir").digest == with_one
    assert sorted(path for path in (tmp_path / "cache").rglob("*")) == before


def test_secrets_are_in_no_image_and_their_mistakes_are_told(
    context: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (context / "sh").write_text("")
    (context / "sh").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY sh /bin/sh\nRUN --mount=type=secret,id=token,required=true,target=/etc/pip.conf true\n"
        "RUN --mount=type=secret,id=other,env=OTHER true\n"
    )
    (context / "secret.txt").write_text("hidden-value")
    monkeypatch.setenv("OTHER_TOKEN", "hidden-variable")
    image = build("--secret", "id=token,src=secret.txt", "--secret", "id=other,env=OTHER_TOKEN")
    whole = json.dumps([line.created_by for line in image.config.history]) + str(image.config.runtime)
    for layer in image.layers:
        with layer.open() as stream:
            data = gzip.decompress(stream.read())
        assert b"hidden" not in data
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            assert archive.getnames() == ["bin", "bin/sh"]
    assert "hidden" not in whole
    for words, told in (
        ((), "the secret token is not given"),
        (("--secret", "id=token,src=absent"), "absent cannot be read"),
        (("--secret", "src=secret.txt"), "is not id=ID,src=FILE"),
        (("--secret", "id=token,env=ABSENT"), "there is no variable ABSENT"),
    ):
        assert main([*BUILD, *words, "-o", "oci:out", "."]) != 0
        assert told in capsys.readouterr().err


def test_the_metadata_file_has_the_digests(context: Path) -> None:
    image = build("--metadata-file", "meta.json")
    document = json.loads((context / "meta.json").read_text())
    assert document["digest"] == image.digest
    assert [layer["digest"] for layer in document["images"][0]["layers"]] == [layer.digest for layer in image.layers]


def test_every_line_is_judged_in_a_dry_run(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("FROM x\nADD https://host.example/f /f\nRUN uv sync --frozen\nRUN make\n")
    assert main(["build", "-f", "Dockerfile", "--dry-run", "."]) == 0
    told = capsys.readouterr().err
    assert "fetches files" in told
    assert "makes the project's environment" in told
    assert "3 native, 1 engine, 0 refused, 0 unused" in told


def test_flags_that_say_nothing_of_a_dockerfile_are_not_passed_over(
    context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BUILD, "--locked", "--extra", "x", "."]) == 2
    assert "--extra, --locked say nothing of a Dockerfile" in capsys.readouterr().err
    assert main(["build", "-f", "Dockerfile", "--cache-from", "x:1", "-o", "oci:out", "."]) == 0
    assert "--engine-arg=--cache-from=x:1" in capsys.readouterr().err


def test_what_changed_is_told_of_a_dockerfile_too(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build()
    (context / "b").write_text("other")
    assert main(["build", "-f", "Dockerfile", "--against", "oci:out", "-o", "oci:new", "."]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line[:2] in ("- ", "+ ", "~ ")]
    assert [line.partition(" (")[0] for line in told] == ["~ COPY b /b # buildkit: other files"]


def test_the_archive_of_a_build_before_is_no_part_of_the_context(context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /all\n")
    first = build()
    assert main([*BUILD, "."]) == 0
    assert (context / "dist/context.tar").is_file()
    assert build().digest == first.digest
