from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_server import Index, make_wheel, serve_index
from wain.digest import Digest
from wain.errors import (
    AuthError,
    HashMismatch,
    NotFound,
    Offline,
    ResolutionError,
    TransferError,
    UnknownDistribution,
)
from wain.fetching import fetch
from wain.index import LockedFile, PackageIndexes
from wain.index_credentials import IndexCredentials
from wain.index_pages import distribution_of, parse_page
from wain.settings import IndexSettings
from wain.store import Store
from wain.transport import HttpSettings, Transport


@pytest.fixture
def index() -> Iterator[Index]:
    with serve_index() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir(mode=0o700)
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def transport() -> Transport:
    return Transport(HttpSettings(retries=2, backoff_seconds=0.01, timeout_seconds=5))


def locked(index: Index, name: str, filename: str, **changes: object) -> LockedFile:
    values: dict[str, object] = {
        "filename": filename,
        "url": f"{index.url}/files/{name}/{filename}",
        "hashes": (("sha256", index.sha256(filename)),),
    }
    values.update(changes)
    return LockedFile(**values)  # type: ignore[arg-type]


def test_files_are_fetched_checked_and_kept(index: Index, store: Store, transport: Transport) -> None:
    files = [locked(index, f"pkg{n}", index.add(f"pkg{n}", "1")) for n in range(12)]
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def progress(name: str, done: int, total: int | None) -> None:
        with lock:
            seen[name] = max(done, seen.get(name, 0))

    found = fetch(files, store=store, transport=transport, progress=progress)
    for file in files:
        path = store.path(found[file])
        assert path is not None
        assert Digest.of_file(path) == file.digest
        assert seen[file.filename] == path.stat().st_size
    before = len(index.requests)
    assert fetch(files, store=store, transport=transport) == found
    assert fetch(files, store=store, transport=Transport(offline=True)) == found
    assert len(index.requests) == before


def test_other_bytes_are_refused_and_not_kept(index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1")
    index.served[filename] = b"x" * len(index.files["pkg"][filename])
    file = locked(index, "pkg", filename)
    with pytest.raises(HashMismatch, match=r"pkg-1-py3-none-any\.whl is not what the lock promises"):
        fetch([file], store=store, transport=transport)
    assert file.digest is not None
    assert not store.has(file.digest)
    del index.served[filename]
    assert fetch([file], store=store, transport=transport)[file] == file.digest


def test_a_cut_download_goes_on_where_it_stopped(index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1", content=os.urandom(300_000))
    index.cut[filename] = [100_000]
    file = locked(index, "pkg", filename)
    fetch([file], store=store, transport=transport)
    ranges = [asked for _, path, asked in index.requests if filename in path]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert ranges[1].startswith("bytes=")
    assert ranges[1] != "bytes=0-"


def test_a_download_that_is_cut_each_time_fails_and_is_resumed_by_the_next_run(
    index: Index, store: Store, transport: Transport
) -> None:
    data = os.urandom(400_000)
    filename = index.add("pkg", "1", content=data)
    index.cut[filename] = [50_000, 0, 0, 0, 0, 0, 0, 0, 0]
    file = locked(index, "pkg", filename)
    with pytest.raises(TransferError, match=r"pkg-1"):
        fetch([file], store=store, transport=transport)
    index.cut.clear()
    index.requests.clear()
    fetch([file], store=store, transport=transport)
    assert index.requests[0][2] is not None


def test_a_wrong_size_is_a_mismatch(index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1")
    with pytest.raises(HashMismatch):
        fetch([locked(index, "pkg", filename, size_bytes=7)], store=store, transport=transport)


def test_offline_says_what_is_needed(index: Index, store: Store) -> None:
    filename = index.add("pkg", "1")
    with pytest.raises(Offline):
        fetch([locked(index, "pkg", filename)], store=store, transport=Transport(offline=True))
    assert index.requests == []


def test_a_file_that_moved_is_found_by_its_hash(index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1")
    file = locked(index, "pkg", filename, url=f"{index.url}/old/{filename}")
    settings = IndexSettings(index_url=index.simple)
    assert fetch([file], store=store, transport=transport, settings=settings)[file] == file.digest
    gone = locked(index, "pkg", filename, url=f"{index.url}/old/{filename}", hashes=(("sha256", "0" * 64),))
    with pytest.raises(NotFound, match=r"pkg-1-py3-none-any\.whl"):
        fetch([gone], store=store, transport=transport, settings=settings)


def test_one_failure_ends_the_others(index: Index, store: Store, transport: Transport) -> None:
    files = [locked(index, f"pkg{n}", index.add(f"pkg{n}", "1")) for n in range(20)]
    index.served[files[0].filename] = b"wrong"
    with pytest.raises(HashMismatch):
        fetch(files, store=store, transport=transport)


def test_local_files_are_copied_and_checked(tmp_path: Path, store: Store, transport: Transport) -> None:
    filename, data = make_wheel("pkg", "1")
    (tmp_path / filename).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    file = LockedFile(filename=filename, path=str(tmp_path / filename), hashes=(("sha256", digest),))
    assert fetch([file], store=store, transport=transport)[file] == f"sha256:{digest}"
    other = LockedFile(filename=filename, path=str(tmp_path / filename), hashes=(("sha256", "0" * 64),))
    with pytest.raises(HashMismatch, match="is not what the lock promises"):
        fetch([other], store=store, transport=transport)
    missing = LockedFile(filename="a-1-py3-none-any.whl", path=str(tmp_path / "a"), hashes=(("sha256", "1" * 64),))
    with pytest.raises(NotFound, match="is locked and does not exist"):
        fetch([missing], store=store, transport=transport)


@pytest.mark.parametrize("algorithm", ["sha512", "sha384"])
def test_other_algorithms_are_checked(algorithm: str, index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1")
    right = hashlib.new(algorithm, index.files["pkg"][filename]).hexdigest()
    file = locked(index, "pkg", filename, hashes=((algorithm, right),))
    first = fetch([file], store=store, transport=transport)
    before = len(index.requests)
    assert fetch([file], store=store, transport=transport) == first
    assert len(index.requests) == before
    wrong = locked(index, "pkg", filename, hashes=((algorithm, "0" * len(right)),))
    with pytest.raises(HashMismatch):
        fetch([wrong], store=store, transport=transport)


def test_a_weak_hash_alone_is_refused(index: Index, store: Store, transport: Transport) -> None:
    filename = index.add("pkg", "1")
    digest = hashlib.md5(index.files["pkg"][filename]).hexdigest()
    with pytest.raises(HashMismatch, match="md5"):
        fetch([locked(index, "pkg", filename, hashes=(("md5", digest),))], store=store, transport=transport)


def test_any_of_the_accepted_hashes_will_do_and_only_that_is_remembered(
    index: Index, store: Store, transport: Transport
) -> None:
    filename = index.add("pkg", "1")
    right = "sha256:" + index.sha256(filename)
    wrong = "sha256:" + "0" * 64
    file = locked(index, "pkg", filename, hashes=(), accepted=(wrong, right))
    assert fetch([file], store=store, transport=transport)[file] == right
    with pytest.raises(HashMismatch):
        fetch([locked(index, "pkg", filename, hashes=(), accepted=(wrong,))], store=store, transport=transport)


@pytest.mark.parametrize("as_json", [False, True])
def test_files_are_located_by_hash_on_all_sources(
    as_json: bool, index: Index, store: Store, transport: Transport, tmp_path: Path
) -> None:
    index.as_json = as_json
    first = index.add("pkg", "1.0", tag="cp313-cp313-manylinux_2_17_x86_64")
    index.add("pkg", "2.0")
    links = tmp_path / "links"
    links.mkdir()
    filename, data = make_wheel("pkg", "1.0", tag="cp313-cp313-win_amd64")
    (links / filename).write_bytes(data)
    settings = IndexSettings(index_url=index.simple, find_links=(str(links),))
    indexes = PackageIndexes(settings, store=store, transport=transport)
    hashes = ["sha256:" + index.sha256(first), "sha256:" + hashlib.sha256(data).hexdigest()]
    found = indexes.locate("pkg", "1", hashes)
    assert {file.filename for file in found} == {first, filename}
    fetched = fetch(found, store=store, transport=transport, indexes=indexes)
    assert set(fetched.values()) == set(hashes)
    again = PackageIndexes(settings, store=store, transport=Transport(offline=True))
    assert again.locate("pkg", "1", hashes) == found


def test_what_is_not_there_is_said(index: Index, store: Store, transport: Transport) -> None:
    index.add("pkg", "1.0")
    indexes = PackageIndexes(IndexSettings(index_url=index.simple), store=store, transport=transport)
    with pytest.raises(UnknownDistribution, match="no index has a distribution other"):
        indexes.locate("other", "1.0", [])
    with pytest.raises(ResolutionError, match=r"no index has version 3 of pkg"):
        indexes.locate("pkg", "3", [])
    with pytest.raises(HashMismatch, match=r"no file of pkg 1\.0 has a hash that was asked for"):
        indexes.locate("pkg", "1.0", ["sha256:" + "0" * 64])


def test_find_links_that_do_not_exist_warn(
    tmp_path: Path, store: Store, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    settings = IndexSettings(no_index=True, find_links=(str(tmp_path / "none"),))
    with caplog.at_level(logging.WARNING, "wain"):
        assert PackageIndexes(settings, store=store, transport=transport).links("pkg") == []
    assert "does not exist" in caplog.text


SECRET = "s3cr3t-p4ss"


@pytest.fixture
def private(index: Index) -> Index:
    index.password = f"me:{SECRET}"
    return index


def test_the_password_in_an_index_url_serves_its_files(
    private: Index, store: Store, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    file = locked(private, "pkg", private.add("pkg", "1"))
    settings = IndexSettings(index_url=private.with_password())
    with caplog.at_level(logging.DEBUG):
        fetch([file], store=store, transport=transport, settings=settings)
    assert SECRET not in caplog.text
    assert SECRET not in repr(settings)


def test_without_credentials_the_error_has_no_secret(private: Index, store: Store, transport: Transport) -> None:
    file = locked(private, "pkg", private.add("pkg", "1"))
    settings = IndexSettings(
        index_url=private.simple.replace("://", f"://me:{SECRET}wrong@"), keyring_provider="disabled"
    )
    with pytest.raises(AuthError) as caught:
        fetch([file], store=store, transport=transport, settings=settings)
    assert SECRET not in str(caught.value) + caught.value.hint


def test_netrc_is_read(
    private: Index, store: Store, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    file = locked(private, "pkg", private.add("pkg", "1"))
    fetch([file], store=store, transport=transport, settings=IndexSettings(index_url=private.simple))


def test_keyring_is_asked_after_a_refusal(
    private: Index, store: Store, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "keyring"
    program.write_text(f'#!/bin/sh\n[ "$1 $3" = "get me" ] && echo "{SECRET}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    file = locked(private, "pkg", private.add("pkg", "1"))
    url = private.simple.replace("://", "://me@")
    settings = IndexSettings(index_url=url, keyring_provider="subprocess")
    fetch([file], store=store, transport=transport, settings=settings)
    other = locked(private, "two", private.add("two", "1"))
    with pytest.raises(AuthError):
        fetch(
            [other],
            store=store,
            transport=transport,
            settings=IndexSettings(index_url=url, keyring_provider="disabled"),
        )


def test_credentials_of_the_longest_path_win_and_never_cross_hosts() -> None:
    settings = IndexSettings(
        index_url="https://a:1@index.example/one/simple",
        extra_index_urls=("https://b:2@index.example/two/simple",),
    )
    credentials = IndexCredentials.of(settings, {"HOME": "/nonexistent"})
    for url, name in (
        ("https://index.example/two/files/x.whl", "b"),
        ("https://index.example/one/files/x.whl", "a"),
    ):
        clean, found = credentials.for_url(url)
        assert clean == url
        assert found is not None
        assert found.username == name
    for url in ("https://other.example/one/x.whl", "http://index.example/one/x.whl"):
        assert credentials.for_url(url)[1] is None


def test_pages() -> None:
    page = b"""<html><head><base href="/files/"></head><body>
    <a href="a-1-py3-none-any.whl#sha256=AB01" data-requires-python="&gt;=3.9">x</a>
    <a href="https://cdn.example/p/b%2B1-1.tar.gz#md5=00" data-yanked="">y</a>
    <a href="file:///etc/passwd-1.zip">z</a><a href="javascript:x">w</a><a href="../">up</a></body></html>"""
    links = parse_page(page, "text/html; charset=utf-8", base_url="https://index.example/simple/a/")
    assert [link.url for link in links] == [
        "https://index.example/files/a-1-py3-none-any.whl",
        "https://cdn.example/p/b%2B1-1.tar.gz",
    ]
    assert links[0].hashes == (("sha256", "ab01"),)
    assert links[0].requires_python == ">=3.9"
    assert links[1].filename == "b+1-1.tar.gz"
    assert links[1].hashes == ()
    assert links[1].yanked


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"files": 3}', b"not json", b'{"meta":{"api-version":"2.0"},"files":[]}']
)
def test_json_that_is_no_page_is_refused(body: bytes) -> None:
    with pytest.raises(TransferError):
        parse_page(body, "application/vnd.pypi.simple.v1+json", base_url="https://index.example/simple/a/")


def test_a_network_page_may_not_name_files_of_this_machine() -> None:
    body = b'{"files": [{"filename": "a-1-py3-none-any.whl", "url": "file:///etc/shadow", "hashes": {}}]}'
    assert parse_page(body, "application/json", base_url="https://index.example/simple/a/") == ()


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("Foo.Bar-1.0-py3-none-any.whl", "foo-bar"),
        ("foo_bar-1.0-1-py3-none-any.whl", "foo-bar"),
        ("foo-bar-1.0.tar.gz", "foo-bar"),
        ("foo-bar-1.0-rc1.tar.gz", "foo-bar"),
        ("foo-1.0.exe", None),
        ("foo.whl", None),
    ],
)
def test_distribution_of(filename: str, name: str | None) -> None:
    assert distribution_of(filename) == name


def test_html_that_is_malformed_is_an_error_of_ours_and_bad_links_are_left_out() -> None:
    base = "https://index.example/simple/a/"
    for page in (b"<![foo[", b"<!x [<![foo[", b"<![" * 1000):
        try:
            assert parse_page(page, "text/html", base_url=base) == ()
        except TransferError as error:
            assert "malformed" in error.message
    with pytest.raises(TransferError, match="malformed"):
        parse_page(b"<![foo[ ]]><a href=x>", "text/html", base_url=base)
    page = b'<base href="http://["><a href="http://[/a-1.0.tar.gz">a</a><a href="a-2.0.tar.gz">b</a>'
    assert [link.url for link in parse_page(page, "text/html", base_url=base)] == [base + "a-2.0.tar.gz"]
