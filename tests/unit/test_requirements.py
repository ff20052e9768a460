from __future__ import annotations

import time
from pathlib import Path

import pytest

from wain.errors import LockError, ProjectError
from wain.requirements import parse_requirement, read_requirements, refuse_unhashed

A, B = "a" * 64, "b" * 64


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder / "requirements.txt"


def test_lines_continuations_comments_and_options(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        requirements=f"""\
# a comment
-i https://index.example/simple
--extra-index-url=https://more.example/simple  # why
--find-links ./links
--no-index
Flask[Async]>=3,<4 ; python_version >= "3.9"  # web
numpy==2.3.1 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
pkg @ https://files.example/pkg-1-py3-none-any.whl#sha256={A}
-e ./local
./wheels/x_y-1.0-py3-none-any.whl
git+https://git.example/repo@main#egg=Repo
""",
    )
    found = read_requirements(path)
    by_name = {line.name: line for line in found.lines}
    assert list(by_name) == ["flask", "numpy", "pkg", None, "x-y", "repo"]
    assert by_name["flask"].extras == ("async",)
    assert by_name["flask"].specifier == "<4,>=3"
    assert by_name["flask"].marker == 'python_version >= "3.9"'
    assert by_name["flask"].origin == "requirements.txt:6"
    assert by_name["numpy"].pinned_version == "2.3.1"
    assert by_name["numpy"].hashes == (f"sha256:{A}", f"sha256:{B}")
    assert by_name["numpy"].origin == "requirements.txt:7"
    assert by_name[None].editable
    assert by_name[None].url == str(tmp_path / "local")
    assert by_name["x-y"].url == str(tmp_path / "wheels/x_y-1.0-py3-none-any.whl")
    options = {name: setting.value for name, setting in found.options.items()}
    assert options == {
        "index-url": "https://index.example/simple",
        "extra-index-url": "https://more.example/simple",
        "find-links": str(tmp_path / "links"),
        "no-index": "true",
    }
    assert not found.is_locked
    assert found.hashes == {"numpy": {f"sha256:{A}", f"sha256:{B}"}}


def test_includes_and_constraints(tmp_path: Path) -> None:
    write(tmp_path, base="flask\n-c limits.txt\n-r requirements.txt\n", limits="flask<4\nidle==1\n")
    path = write(tmp_path, requirements="-r base.txt\nnumpy\n")
    found = read_requirements(path)
    assert [line.name for line in found.lines] == ["flask", "numpy"]
    assert [line.name for line in found.constraints] == ["flask", "idle"]
    assert found.files == (path, tmp_path / "base.txt", tmp_path / "limits.txt")


def test_a_file_is_a_lock_when_all_is_pinned_and_hashed(tmp_path: Path) -> None:
    assert read_requirements(write(tmp_path, requirements=f"a==1 --hash=sha256:{A}\n")).is_locked
    for text in (f"a==1 --hash=sha256:{A}\nb==1\n", f"a>=1 --hash=sha256:{A}\n", f"a==1.* --hash=sha256:{A}\n", ""):
        assert not read_requirements(write(tmp_path, requirements=text)).is_locked


def test_variables_are_put_in(tmp_path: Path) -> None:
    path = write(tmp_path, requirements="-i https://${USER_NAME}:${TOKEN}@index.example/simple\nflask\n")
    found = read_requirements(path, environ={"USER_NAME": "me", "TOKEN": "t"})
    assert found.options["index-url"].value == "https://me:t@index.example/simple"
    unset = read_requirements(path, environ={})
    assert "${TOKEN}" in unset.options["index-url"].value
    assert "t@" not in repr(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flask==\n", "requirements.txt:1: 'flask==' is no requirement"),
        ("-r none.txt\n", "requirements.txt:1: .*none.txt cannot be read"),
        ("--frobnicate x\n", "the option --frobnicate is not known"),
        ("--index-url\n", "--index-url needs a value"),
        ("a==1 --hash=sha256:12\n", "is no hash"),
        ("a==1 --hash=md5:" + "0" * 32 + "\n", "is no hash"),
        ("a==1 --target x\n", "a requirement has no option --target"),
        ("-r https://x.example/r.txt\n", "a requirements file at a URL is not read"),
        ("-e 'x\n", "No closing quotation"),
    ],
)
def test_malformed_lines_name_their_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        read_requirements(write(tmp_path, requirements=text))


def test_an_error_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        read_requirements(write(tmp_path, requirements="a b @ https://me:s3cr3t@files.example/x.whl\n"))
    assert "s3cr3t" not in caught.value.message


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text("flask\n", encoding=encoding)
        assert [line.name for line in read_requirements(path).lines] == ["flask"]
    path.write_bytes(b"flask\n\xff\xf0")
    with pytest.raises(ProjectError, match="UTF-8"):
        read_requirements(path)


def test_require_hashes(tmp_path: Path) -> None:
    found = read_requirements(write(tmp_path, requirements="--require-hashes\na==1\n"))
    with pytest.raises(LockError, match=r"requirements\.txt:2: a has no hash"):
        refuse_unhashed(found)


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("a @ https://x.example/a.zip", "a", "https://x.example/a.zip"),
        (
            "https://x.example/a_b-1.0-py3-none-any.whl ; python_version > '3'",
            "a-b",
            "https://x.example/a_b-1.0-py3-none-any.whl",
        ),
        ("./dir[extra]", None, "/base/dir[extra]"),
        ("a-1.0.tar.gz", "a", "/base/a-1.0.tar.gz"),
        ("file:///x/a-1.0.tar.gz", "a", "file:///x/a-1.0.tar.gz"),
    ],
)
def test_direct_references(text: str, name: str | None, url: str) -> None:
    line = parse_requirement(text, "x:1", folder=Path("/base"))
    assert (line.name, line.url) == (name, url)


@pytest.mark.parametrize(
    "text",
    [
        "a; " + "(" * 5000 + "python_version > '3'" + ")" * 5000,
        "a" + "(" * 100_000,
        "\\\n" * 200_000 + "a==",
        "a" + " " * 200_000 + "b",
        "-" * 100_000,
    ],
    ids=["nested marker", "parentheses", "continuations", "spaces", "dashes"],
)
def test_hostile_lines_are_refused_soon(tmp_path: Path, text: str) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    began = time.process_time()
    with pytest.raises(ProjectError) as caught:
        read_requirements(tmp_path / "requirements.txt")
    assert caught.value.hint
    assert time.process_time() - began < 5
