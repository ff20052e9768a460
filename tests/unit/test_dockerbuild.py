from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from wain.dockerbuild import DockerfileBuilt, DockerfileRequest, build_dockerfile
from wain.dockerfile import parse
from wain.errors import DockerfileError, EngineError, UsageError
from wain.filework import Actor, CommandFails, changed_mode, expand_pattern, user_ids
from wain.image import Image, Index, check_image
from wain.pipsteps import Tools
from wain.platforms import Platform
from wain.settings import IndexSettings
from wain.store import Store
from wain.transport import Transport
from wain.tree import Node, Tree, directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def make(
    text: str,
    context: Path,
    store: Store,
    *,
    args: Mapping[str, str] | None = None,
    target: str | None = None,
    secrets: Mapping[str, bytes] | None = None,
) -> DockerfileBuilt:
    made: dict[str, Image] = {}

    def read(name: str, platform: Platform) -> Image | Index:
        if name not in made:
            raise UsageError(f"no image {name}", hint="none")
        return made[name]

    tools = Tools(
        store=store, transport=Transport(offline=True), settings=lambda flags: IndexSettings(), secrets=secrets or {}
    )
    request = DockerfileRequest(
        dockerfile=parse(text),
        path=None,
        context=context,
        build_args=args or {},
        target=target,
        platform=Platform.parse("linux/amd64"),
    )
    built = build_dockerfile(request, tools, read)
    check_image(built.image)
    return built


def layer_names(image: Image, number: int) -> list[str]:
    with image.layers[number].open() as stream:
        data = gzip.decompress(stream.read())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "data").mkdir(parents=True)
    (folder / "data/a").write_text("a")
    (folder / "data/b").write_text("b")
    (folder / "sh").write_text("#!/none\n")
    (folder / "sh").chmod(0o755)
    return folder


SHELL = "FROM scratch\nCOPY sh /bin/sh\n"


def test_configuration_and_history(context: Path, store: Store) -> None:
    text = (
        "FROM scratch\nARG V=1\nENV A=$V B=two\nLABEL l=m\nEXPOSE 80 53/udp\nUSER 5\nCMD echo hi\n"
        'HEALTHCHECK --interval=90s --retries=2 CMD ["x"]\nVOLUME /d\n'
    )
    image = make(text, context, store, args={"V": "9"}).image
    config = image.config.runtime
    assert config.environment()["A"] == "9"
    assert config.cmd == ("/bin/sh", "-c", "echo hi")
    assert config.exposed_ports == ("80/tcp", "53/udp")
    assert config.healthcheck == {"Test": ["CMD", "x"], "Interval": 90 * 10**9, "Retries": 2}
    assert [line.created_by for line in image.config.history] == [
        "ARG V=1",
        "ENV A=9 B=two",
        "LABEL l=m",
        "EXPOSE map[53/udp:{} 80/tcp:{}]",
        "USER 5",
        'CMD ["/bin/sh" "-c" "echo hi"]',
        'HEALTHCHECK &{["CMD" "x"] "1m30s" "0s" "0s" "0s" \'\\x02\'}',
        "VOLUME [/d]",
    ]
    assert all(line.empty_layer for line in image.config.history)


def test_removed_and_remade_folders_become_whiteouts(context: Path, store: Store) -> None:
    image = make(
        SHELL + "COPY data /d\nRUN rm /d/a\nRUN rm -rf /d && mkdir /d && touch /d/new\nRUN rm -r /d\n", context, store
    ).image
    assert layer_names(image, 2) == ["d/.wh.a", "d"]
    assert layer_names(image, 3) == ["d/.wh..wh..opq", "d", "d/new"]
    assert layer_names(image, 4) == [".wh.d"]


def test_the_same_context_gives_the_same_image(context: Path, store: Store) -> None:
    text = SHELL + "WORKDIR /w\nCOPY data .\nRUN chmod 700 a && ln -s a l\n"
    first = make(text, context, store).image.digest
    assert make(text, context, store).image.digest == first
    (context / "data/a").write_text("changed")
    assert make(text, context, store).image.digest != first


def test_stages_copy_from_each_other_and_targets_stop(context: Path, store: Store) -> None:
    text = 'FROM scratch AS one\nCOPY data /d\nFROM scratch AS two\nCOPY --from=one /d/a /x/\nCMD ["x"]\n'
    image = make(text, context, store).image
    assert len(image.layers) == 1
    assert layer_names(image, 0) == ["x", "x/a"]
    assert layer_names(make(text, context, store, target="one").image, 0) == ["d", "d/a", "d/b"]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("RUN apt-get install -y x", EngineError, "Dockerfile:3: apt-get has to be run"),
        ("ADD https://host.example/x.git /x", EngineError, "Dockerfile:3: ADD clones"),
        ("COPY nothing /x", DockerfileError, "Dockerfile:3: there is no nothing in the context"),
        ("RUN rm /nothing", DockerfileError, "Dockerfile:3: RUN would fail: rm: /nothing is not there"),
        ("RUN mkdir /a/b", DockerfileError, "there is no such folder"),
        ("COPY --chown=nobody sh /x", DockerfileError, "there is no user nobody"),
        ("COPY data sh /x", DockerfileError, "ends in a slash"),
        ("COPY --chmod=u+x sh /x", DockerfileError, "no octal mode"),
        ("EXPOSE http", DockerfileError, "is no port"),
        ("COPY --from=registry.example/x /x /x", DockerfileError, "no image"),
    ],
)
def test_what_cannot_be_done_names_file_line_and_command(
    context: Path, store: Store, line: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make(f"{SHELL}{line}\n", context, store)
    assert message in str(caught.value)
    assert getattr(caught.value, "hint", "")


def test_what_must_be_run_is_told_before_anything_is_read(tmp_path: Path, store: Store) -> None:
    with pytest.raises(EngineError, match="make has to be run"):
        make("FROM registry.example/never\nRUN make\n", tmp_path / "no-such-context", store)


def test_a_failing_chain_is_left_where_it_fails(context: Path, store: Store) -> None:
    image = make(SHELL + "RUN mkdir /a && rm /nothing && mkdir /b || true\n", context, store).image
    assert layer_names(image, 1) == ["a"]


def test_users_may_not_write_everywhere(context: Path, store: Store) -> None:
    with pytest.raises(DockerfileError, match="user 7 may not write to /bin"):
        make(SHELL + "USER 7:7\nRUN touch /bin/x\n", context, store)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [("755", 0o600, 0o755), ("u+x", 0o644, 0o744), ("go=", 0o777, 0o700), ("a+rX", 0o600, 0o644), ("+x", 0, 0o111),
     ("u=rw,g-w", 0o677, 0o657), ("+w", 0, 0o200), ("g+s", 0o755, 0o2755)],
)  # fmt: skip
def test_modes(text: str, before: int, after: int) -> None:
    assert changed_mode(text, Node(kind="file", mode=before)) == after


def test_directories_keep_their_set_ids_under_an_octal_mode() -> None:
    assert changed_mode("755", directory(mode=0o2700)) == 0o2755


def test_patterns_and_users() -> None:
    tree = Tree()
    tree.make_folders("d/.hidden")
    for name in ("d/a.txt", "d/b.txt", "d/c"):
        tree.put(name, Node(kind="file"))
    assert expand_pattern(tree, "*.txt", "/d") == ["a.txt", "b.txt"]
    assert expand_pattern(tree, "/d/[!a]*", "/") == ["/d/b.txt", "/d/c"]
    assert expand_pattern(tree, "/d/*.none", "/") == ["/d/*.none"]
    passwd, group = "a:x:5:6::/home/a:/bin/sh\n", "g:x:9:\n"
    assert user_ids("a:", passwd, group) == (5, 6)
    assert user_ids("7:g", passwd, group) == (7, 9)
    with pytest.raises(CommandFails):
        user_ids("b", passwd, group)
    assert Actor(uid=0, gid=0, cwd="/", passwd="", group="", now=0).uid == 0


def test_secrets_are_gone_after_their_run(context: Path, store: Store) -> None:
    run = "RUN --mount=type=secret,id=conf,target=/etc/deep/pip.conf --mount=type=secret,id=b true\n"
    image = make(SHELL + run, context, store, secrets={"conf": b"password", "b": b"other"}).image
    assert len(image.layers) == 1
    with pytest.raises(DockerfileError, match="the secret conf is not given"):
        make(SHELL + run.replace("id=conf,", "id=conf,required=true,"), context, store)
    with pytest.raises(EngineError, match="cp sees a secret"):
        make(SHELL + "RUN --mount=type=secret,id=b cp /run/secrets/b /x\n", context, store, secrets={"b": b""})


def test_folders_that_nest_too_deep_are_told(tmp_path: Path, store: Store) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    try:
        with pytest.raises(DockerfileError, match="nest hundreds deep"):
            make("FROM scratch\nCOPY . /x\n", deep, store)
    finally:
        # Python's own removal gives up at this depth.
        subprocess.run(["rm", "-rf", str(deep)], check=True)


def test_mounts_are_there_for_their_run_alone(context: Path, store: Store) -> None:
    text = (
        "FROM scratch AS one\nCOPY data /d\nFROM scratch\nCOPY sh /bin/sh\nWORKDIR /w\n"
        "RUN --mount=type=bind,source=data,target=in cp -r in /copied\n"
        "RUN --mount=from=one,source=/d/a,target=/deep/new/a cp /deep/new/a /w/a && mkdir /deep/kept\n"
        "RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/w touch /c/x /w/y && touch /z\n"
    )
    image = make(text, context, store).image
    assert layer_names(image, 2) == ["copied", "copied/a", "copied/b"]
    assert layer_names(image, 3) == ["deep", "deep/kept", "w", "w/a"]
    assert layer_names(image, 4) == ["z"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("--mount=type=bind,source=data,target=/in touch /in/new", "/in is mounted to be read only"),
        ("--mount=type=bind,source=data,target=/in chmod 700 /in", "/in is mounted to be read only"),
        ("--mount=type=bind,source=nowhere,target=/in true", "there is no nowhere in the context"),
        ("--mount=type=bind,source=data true", "has no target"),
        ("--mount=type=cache,target=/c,mode=9 true", "no octal mode"),
    ],
)
def test_mounts_that_fail_say_why(run: str, message: str, context: Path, store: Store) -> None:
    with pytest.raises(DockerfileError, match="Dockerfile:3") as raised:
        make(f"{SHELL}RUN {run}\n", context, store)
    assert message in raised.value.message


def test_patterns_that_echo_writes_are_the_shell_s(context: Path, store: Store) -> None:
    image = make(SHELL + "RUN echo *.none > /e\n", context, store).image
    assert layer_names(image, 1) == ["e"]
    with pytest.raises(EngineError, match="what its patterns name"):
        make(SHELL + "RUN echo /bin/* > /e\n", context, store)


def test_what_a_writable_mount_takes_is_gone(context: Path, store: Store) -> None:
    image = make(SHELL + "RUN --mount=source=data,target=/in,rw rm /in/a && touch /in/c /out\n", context, store).image
    assert layer_names(image, 1) == ["out"]
