"""Locks, requirements and pages: round trips, agreement with packaging, and hostile input."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.pylock import Pylock
from packaging.utils import canonicalize_name, parse_wheel_filename

from wain.compatibility import best_wheel
from wain.errors import WainError
from wain.index_credentials import IndexCredentials
from wain.index_pages import parse_page
from wain.lock import Lock, LockedFile, LockedPackage, parse_pylock
from wain.lockformats import read_uv_lock
from wain.platforms import Platform, PythonVersion, Target
from wain.requirements import parse_requirement, read_requirements
from wain.settings import IndexSettings, normalize_name
from wain.uv_process import redact_text

HASHES = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,6})?", fullmatch=True)
VERSIONS = st.from_regex(r"[1-9][0-9]{0,2}\.[1-9][0-9]?(\.post[0-9])?", fullmatch=True)
TAGS = st.builds(
    "-".join,
    st.tuples(
        st.sampled_from(["cp313", "cp312", "py3", "py2.py3", "cp39", "cp311.cp313"]),
        st.sampled_from(["cp313", "abi3", "none", "cp312", "cp313t"]),
        st.sampled_from(
            [
                "any",
                "manylinux_2_17_x86_64.manylinux2014_x86_64",
                "manylinux_2_28_x86_64",
                "manylinux_2_39_x86_64",
                "manylinux1_x86_64",
                "linux_x86_64",
                "musllinux_1_1_x86_64",
                "win_amd64",
                "manylinux_2_17_aarch64",
            ]
        ),
    ),
)
TARGET = Target(
    platform=Platform("linux", "amd64"),
    python=PythonVersion(major=3, minor=13, patch=5),
    abi="cp313",
    libc_version=(2, 36),
)


@given(st.lists(TAGS, min_size=1, max_size=8, unique=True))
@settings(max_examples=150)
def test_the_wheel_is_the_one_that_packaging_ranks_first(tags: list[str]) -> None:
    """An installer MUST take the wheel whose tag comes first in its list of supported tags."""
    files = [LockedFile(filename=f"pkg-1.0-{tag}.whl") for tag in tags]
    supported = {tag: rank for rank, tag in reversed(list(enumerate(TARGET.tags())))}

    def rank(file: LockedFile) -> int | None:
        ranks = [supported[tag] for tag in parse_wheel_filename(file.filename)[3] if tag in supported]
        return min(ranks, default=None)

    fitting = [found for file in files if (found := rank(file)) is not None]
    best = best_wheel(files, TARGET)
    if not fitting:
        assert best is None
    else:
        assert best is not None
        assert rank(best) == min(fitting)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    packages = []
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        version = draw(VERSIONS)
        wheels = []
        for tag in draw(st.lists(TAGS, min_size=1, max_size=3, unique=True)):
            filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
            local = draw(st.booleans())
            wheels.append(
                LockedFile(
                    filename=filename,
                    url=None if local else f"https://files.example/{draw(NAMES)}/{filename}",
                    path=f"/links/{filename}" if local else None,
                    size_bytes=draw(st.none() | st.integers(0, 1 << 40)),
                    hashes=(("sha256", draw(HASHES)),),
                )
            )
        packages.append(
            LockedPackage(
                name=name,
                version=version,
                marker=draw(st.none() | st.just("platform_machine == 'x86_64'")),
                wheels=tuple(sorted(wheels, key=lambda file: file.filename)),
            )
        )
    note = draw(st.text(max_size=20))
    return Lock(
        packages=tuple(sorted(packages, key=lambda package: package.name)),
        requires_python=draw(st.none() | st.just("==3.13.*")),
        created_by="wain",
        tool={"note": note},
    )


@given(locks())
@settings(max_examples=80)
def test_what_is_written_is_read_back_and_packaging_reads_it(lock: Lock) -> None:
    text = lock.to_toml(Path("/app"))
    Pylock.from_dict(tomllib.loads(text)).validate()
    back = parse_pylock(text, Path("/app/pylock.toml"))
    assert back.packages == lock.packages
    assert back.tool == lock.tool
    assert back.to_toml(Path("/app")) == text


@given(st.text(alphabet=string.printable, max_size=200))
@settings(max_examples=200)
def test_any_text_as_requirement_is_understood_or_an_error_of_ours(text: str) -> None:
    try:
        line = parse_requirement(text, "x:1", folder=Path("/base"))
    except WainError:
        return
    assert line.name is None or line.name == canonicalize_name(line.name)


LINES = st.sampled_from(
    [
        "flask",
        "flask==1.0",
        "# note",
        "\\",
        "numpy \\",
        "--hash=sha256:" + "a" * 64,
        "    --hash=sha256:" + "b" * 64 + " \\",
        "-r requirements.txt",
        "-c none.txt",
        "--index-url https://u:p@index.example",
        "-e",
        "'",
        "a @ https://x.example/a.zip",
        "\x00",
    ]
)


@given(st.lists(LINES, max_size=8))
@settings(max_examples=100)
def test_any_lines_are_read_or_an_error_of_ours(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("\n".join(lines))
        try:
            found = read_requirements(path)
        except WainError as error:
            assert "u:p@" not in error.message
            return
        assert all(line.origin.startswith("requirements.txt:") for line in found.lines)


@given(st.binary(max_size=300), st.sampled_from(["text/html", "application/vnd.pypi.simple.v1+json"]))
@settings(max_examples=200)
def test_any_bytes_as_page_are_links_or_an_error_of_ours(data: bytes, kind: str) -> None:
    try:
        links = parse_page(data, kind, base_url="https://index.example/simple/a/")
    except WainError:
        return
    assert all("/" not in link.filename for link in links)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "version", "source", "wheels", "url", "hash", "virtual", "dependencies", "path"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3))
@settings(max_examples=100)
def test_any_uv_lock_is_read_or_an_error_of_ours(packages: list[object]) -> None:
    import tempfile

    import tomli_w

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        if isinstance(value, list):
            return [clean(item) for item in value if item is not None]
        return "" if value is None else value

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "uv.lock"
        path.write_text(tomli_w.dumps({"version": 1, "package": clean(packages)}), "utf-8")
        try:
            read_uv_lock(path).select(TARGET)
        except WainError:
            pass


@given(
    st.text(alphabet=string.ascii_letters + string.digits + "%._~!$&'()*+,;=-", min_size=1, max_size=12),
    st.sampled_from(["", ":8443"]),
    st.sampled_from(["", "simple", "a/simple/"]),
)
@settings(max_examples=100)
def test_no_password_survives_redaction_or_a_representation(password: str, port: str, path: str) -> None:
    secret = f"zq{password}qz".replace("'", "")
    url = f"https://user:{secret}@index.example{port}/{path}"
    assert secret not in redact_text(f"error: cannot reach {url}/x.whl?token={secret}")
    found = IndexSettings(index_url=url)
    assert secret not in repr(found)
    credentials = IndexCredentials.of(found, {"HOME": "/nonexistent"})
    assert secret not in repr(credentials)
    assert credentials.for_url(f"https://index.example{port}/files/x.whl")[1] is not None
    assert credentials.for_url(f"https://other.example{port}/files/x.whl")[1] is None


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True))
def test_names_are_normalised_as_packaging_does(name: str) -> None:
    assert normalize_name(name) == canonicalize_name(name)
