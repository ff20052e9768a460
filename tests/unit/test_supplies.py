from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.index_server import Index, serve_index
from tests.unit.layer_maker import file, make_layer
from tests.unit.test_bases import glibc, image_of, official
from wain.dockerbuild import DockerfileRequest
from wain.dockerfile import parse
from wain.errors import TransferError
from wain.image import Image
from wain.pipsteps import Tools
from wain.platforms import Platform
from wain.settings import index_settings
from wain.store import Store
from wain.supplies import Supplier, Supply
from wain.transport import Transport

PATH = "PATH=/usr/local/bin:/usr/bin"
PIP = file("usr/local/bin/pip", b"#!/usr/local/bin/python3\n", mode=0o755)


def sdist(name: str, version: str, requires: str) -> tuple[str, bytes]:
    stem = f"{name}-{version}"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path, text in (
            ("PKG-INFO", f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"),
            ("pyproject.toml", f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "x"\n'),
        ):
            info = tarfile.TarInfo(f"{stem}/{path}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return f"{stem}.tar.gz", stream.getvalue()


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with serve_index() as served:
        served.add("app", "1.0", requires=["lib>=1"])
        served.add("lib", "1.5")
        served.add("setuptools", "80.0")
        served.add("wheel", "0.45")
        served.put("native", *sdist("native", "2.0", "setuptools>=40"))
        yield served


class Bench:
    """Supplies of Dockerfiles over one base, from one index."""

    def __init__(self, folder: Path, index: Index, store: Store) -> None:
        self.folder, self.index, self.store = folder, index, store
        self.context = folder / "context"
        self.files = folder / "files"
        self.context.mkdir()
        self.files.mkdir()
        self.base: Image | None = image_of(make_layer([*official(), *glibc(), PIP]), env=[PATH])

    def read(self, name: str, platform: Platform) -> Image:
        if self.base is None:
            raise TransferError(f"GET {name} failed", hint="none")
        return self.base

    def supplies(
        self, text: str, *, args: dict[str, str] | None = None, secrets: dict[str, bytes] | None = None
    ) -> tuple[Supply, ...]:
        return self.supplier(text, args=args, secrets=secrets).supplies()

    def supplier(
        self, text: str, *, args: dict[str, str] | None = None, secrets: dict[str, bytes] | None = None
    ) -> Supplier:
        flags = {"index-url": self.index.simple}
        env = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in flags.items()}
        tools = Tools(
            store=self.store,
            transport=Transport(),
            settings=lambda given: index_settings(None, flags=given, environ={**env, "PIP_CONFIG_FILE": "/dev/null"}),
            secrets=secrets or {},
        )
        request = DockerfileRequest(
            dockerfile=parse(text),
            path=None,
            context=self.context,
            build_args=args or {},
            platform=Platform.parse("linux/amd64"),
        )
        return Supplier(request, tools, self.read, self.files)

    def names(self, supply: Supply) -> list[str]:
        assert supply.key is not None, supply.why
        return sorted(path.name for path in (self.files / supply.key).iterdir())


@pytest.fixture
def bench(tmp_path: Path, index: Index) -> Iterator[Bench]:
    with Store.open(tmp_path / "store") as store:
        yield Bench(tmp_path, index, store)


def test_requirements_of_the_context_and_arguments_are_resolved_for_the_base(bench: Bench) -> None:
    (bench.context / "r.txt").write_text("app\n")
    found = bench.supplies(
        "FROM base\nARG NAME\nWORKDIR /s\nCOPY r.txt .\nRUN make && pip install -r r.txt\nRUN pip wheel $NAME | cat\n",
        args={"NAME": "lib"},
    )
    assert bench.names(found[0]) == ["app-1.0-py3-none-any.whl", "lib-1.5-py3-none-any.whl"]
    assert bench.names(found[1]) == ["lib-1.5-py3-none-any.whl"]
    assert found[0].why == "2 files"
    for path in (bench.files / str(found[0].key)).iterdir():
        # Whoever the RUN's user is reads them, and the store is not what the engine has.
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_nlink == 1


def test_sdists_come_with_what_their_builds_need(bench: Bench) -> None:
    (found,) = bench.supplies("FROM base\nRUN apt-get install gcc && pip install native\n")
    assert bench.names(found) == [
        "native-2.0.tar.gz",
        "setuptools-80.0-py3-none-any.whl",
        "wheel-0.45-py3-none-any.whl",
    ]


def test_a_loop_gets_what_all_its_turns_ask_for(bench: Bench) -> None:
    (found,) = bench.supplies("FROM base\nRUN for p in app native; do pip install $p; done\n")
    assert len(bench.names(found)) == 5
    assert len(found.installs) == 2


def test_what_a_run_mounts_is_seen(bench: Bench) -> None:
    (bench.context / "r.txt").write_text("app\n")
    (bench.context / "c").mkdir()
    (bench.context / "c/limits.txt").write_text("lib<1.5\n")
    found = bench.supplies(
        "FROM base AS first\nCOPY r.txt /made/r.txt\nFROM base\nWORKDIR /w\n"
        "RUN --mount=type=bind,source=r.txt,target=/tmp/r.txt make && pip install -r /tmp/r.txt\n"
        "RUN --mount=from=first,source=/made,target=/made make && pip install -r /made/r.txt\n"
        "RUN --mount=type=bind,target=. make && pip install -c c/limits.txt lib\n"
    )
    assert [len(bench.names(one)) for one in found[:2]] == [2, 2]
    assert "lib" in found[2].why
    assert found[2].key is None


def test_secrets_say_where_to_look_and_are_given_to_nobody(bench: Bench) -> None:
    with serve_index() as private:
        private.password = "user:h4y"
        private.add("lib", "9.0")
        url = private.with_password()
        found = bench.supplies(
            "FROM base\n"
            "RUN --mount=type=secret,id=conf,target=/etc/pip.conf make && pip install lib\n"
            "RUN --mount=type=secret,id=url,env=PIP_INDEX_URL make && pip install lib\n"
            "RUN make && pip install lib\n",
            secrets={"conf": f"[global]\nindex-url = {url}\n".encode(), "url": url.encode()},
        )
    assert [bench.names(one) for one in found] == [
        ["lib-9.0-py3-none-any.whl"],
        ["lib-9.0-py3-none-any.whl"],
        ["lib-1.5-py3-none-any.whl"],
    ]
    assert not [path for path in bench.files.rglob("*") if path.is_file() and b"h4y" in path.read_bytes()]


def test_a_project_of_the_context_gets_its_dependencies(bench: Bench) -> None:
    (bench.context / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["wheel"]\nbuild-backend = "x"\n'
        '[project]\nname = "own"\nversion = "1"\ndependencies = ["lib"]\n'
    )
    found = bench.supplies(
        "FROM base\nWORKDIR /src\nCOPY . .\nRUN make && pip install .\nRUN make && pip install -e .\n"
    )
    for one in found:
        assert bench.names(one) == ["lib-1.5-py3-none-any.whl", "wheel-0.45-py3-none-any.whl"]
    # What is fetched is fetched by the engine.
    (found,) = bench.supplies("FROM base\nADD http://127.0.0.1:9/r.txt /\nRUN make && pip install -r /r.txt\n")
    assert "there is no requirements file" in found.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "WORKDIR /src\nRUN curl x > made.txt && pip install -r made.txt",
            "before the build there is no requirements file /src/made.txt",
        ),
        ("RUN make && pip install nowhere", "nowhere"),
        ("RUN make && pip install 'app<1'", "app"),
        ("RUN make && pip3.11 install app", "pip3.11 is not the base's Python 3.13"),
        ("RUN make && uv pip install --python 3.11 app", "Python 3.11 is not the base's"),
        ("ENV PIP_NO_INDEX=yes\nRUN make && pip install app --find-links http://127.0.0.1:9", ""),
        ("RUN make && pip install --no-binary :all: native", "it builds everything"),
        ("RUN make && uv pip install --system https://host.example/x-1-py3-none-any.whl", "uv fetches what is named"),
        ("RUN make && pip install git+https://host.example/x.git", ""),
    ],
)
def test_what_is_not_known_before_is_told(bench: Bench, text: str, why: str) -> None:
    for found in bench.supplies(f"FROM base\n{text}\n"):
        assert found.key is None
        assert why in found.why


def test_a_base_without_python_gets_nothing(bench: Bench) -> None:
    bench.base = image_of(make_layer(glibc()), env=[PATH])
    (found,) = bench.supplies("FROM base\nRUN apt-get install -y python3-pip && pip install app\n")
    assert (found.key, "Python" in found.why) == (None, True)


def test_a_base_that_cannot_be_read_is_told(bench: Bench) -> None:
    bench.base = None
    (found,) = bench.supplies("FROM base\nRUN make && pip install app\n")
    assert (found.key, found.why) == (None, "GET base failed")


def test_stages_that_the_target_does_not_need_get_nothing(bench: Bench) -> None:
    (found,) = bench.supplies("FROM base AS other\nRUN make && pip install app\nFROM base\nRUN make\n")
    assert (found.key, found.why) == (None, "its stage is not needed")


@pytest.mark.parametrize(
    ("origin", "text", "alone"),
    [
        ("127.0.0.1:5000/base", "FROM a\n", True),
        ("127.0.0.1:5000/base", "FROM a AS b\nFROM a\nCOPY --from=b /x /x\n", True),
        ("127.0.0.1:5000/base", "FROM a\nCOPY --from=registry.example/b /x /x\n", False),
        ("127.0.0.1:5000/base", "FROM a\nRUN --mount=type=bind,from=registry.example/b,target=/x pip list\n", False),
        ("registry.example/base", "FROM a\n", False),
        (None, "FROM a\n", False),
    ],
)
def test_plain_http_is_for_files_whose_images_all_come_from_loopback(
    bench: Bench, origin: str | None, text: str, alone: bool
) -> None:
    assert bench.base is not None
    bench.base = replace(bench.base, layers=tuple(replace(layer, origin=origin) for layer in bench.base.layers))
    supplier = bench.supplier(text)
    supplier.supplies()
    assert supplier.is_on_loopback() is alone
    bench.base = None
    unread = bench.supplier(text)
    unread.supplies()
    assert not unread.is_on_loopback()
