from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.debian_maker import BEFORE, DAY, Mirror, keyring, make_deb, serving, signed
from wain.debian_archive import KEYRING, Archive, Mirrors, debian_mirrors, verify_inrelease
from wain.digest import Digest
from wain.errors import DebianError, HashMismatch, Offline, SignatureError
from wain.store import Store
from wain.transport import HttpSettings, Transport

NOW = datetime(2030, 3, 2, tzinfo=UTC)
FAST = HttpSettings(retries=0, timeout_seconds=10)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving(Mirror()) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", make_parent=True) as opened:
        yield opened


def archive(mirror: Mirror, store: Store, folder: Path, **changes: object) -> Archive:
    mirrors = Mirrors(main=(f"{mirror.url}/debian",), security=(f"{mirror.url}/debian-security",))
    return Archive(
        replace(mirrors, **changes),  # type: ignore[arg-type]
        store=store,
        transport=Transport(FAST),
        keyring=keyring(folder),
        now=lambda: NOW,
    )


def publish_all(mirror: Mirror, **options: object) -> None:
    mirror.publish("trixie", [make_deb("aa")], **options)  # type: ignore[arg-type]
    mirror.publish("trixie-updates", [], **options)  # type: ignore[arg-type]
    mirror.publish("trixie-security", [make_deb("aa", "1.0-1+deb13u1")], root="debian-security", **options)  # type: ignore[arg-type]


# -- sources ---------------------------------------------------------------------------------------------------


def apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        path = folder / "sources.list" if name == "main" else folder / "sources.list.d" / name.replace("__", ".")
        path.write_text(text)
    return folder


def test_one_line_sources(tmp_path: Path) -> None:
    folder = apt(
        tmp_path / "apt",
        main="""# deb http://commented.example/debian trixie main
deb-src http://src.example/debian trixie main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian/ bookworm main contrib # note
deb http://mirror.example/debian bookworm-updates main
deb http://security.example/debian-security bookworm-security main
deb http://other.example/apt nodistro main
deb http://ubuntu.example/ubuntu jammy main
deb http://nonfree.example/debian bookworm non-free
deb cdrom:[Debian 12]/ bookworm main
""",
    )
    assert debian_mirrors(apt=folder, lists=tmp_path / "lists") == Mirrors(
        main=("http://mirror.example/debian",), security=("http://security.example/debian-security",)
    )


def test_deb822_sources(tmp_path: Path) -> None:
    folder = apt(
        tmp_path / "apt",
        debian__sources="""Types: deb deb-src
# a comment
URIs: https://mirror.example/debian http://second.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://security.example/debian-security
Suites: trixie-security
Components: main
Check-Valid-Until: no

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: trixie
Components: main
""",
        other__save="Types: deb\nURIs: http://ignored.example\nSuites: trixie\nComponents: main\n",
    )
    assert debian_mirrors(apt=folder, lists=tmp_path) == Mirrors(
        main=("https://mirror.example/debian", "http://second.example/debian"),
        security=("https://security.example/debian-security",),
        check_valid_until=False,
    )


def test_a_source_whose_release_is_not_debians_is_left_out(tmp_path: Path) -> None:
    folder = apt(
        tmp_path / "apt",
        main="deb http://vendor.example/apt stable main\ndeb http://mirror.example/debian trixie main\n",
    )
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "vendor.example_apt_dists_stable_InRelease").write_text("Origin: Vendor\n")
    (lists / "mirror.example_debian_dists_trixie_InRelease").write_text("Hash: SHA256\n\nOrigin: Debian\n")
    assert debian_mirrors(apt=folder, lists=lists) == Mirrors(main=("http://mirror.example/debian",))


def test_a_list_of_mirrors(tmp_path: Path) -> None:
    (tmp_path / "mirrors").write_text("# mine\nhttp://one.example/debian\thigh\nhttp://two.example/debian\n")
    folder = apt(tmp_path / "apt", main=f"deb mirror+file:{tmp_path}/mirrors trixie main\n")
    found = debian_mirrors(apt=folder, lists=tmp_path)
    assert found is not None
    assert found.main == ("http://one.example/debian", "http://two.example/debian")


def test_no_mirror(tmp_path: Path, store: Store) -> None:
    assert debian_mirrors(apt=tmp_path / "none", lists=tmp_path) is None
    with pytest.raises(DebianError, match="no Debian mirror is known") as caught:
        Archive(None, store=store, transport=Transport(FAST)).releases("trixie")
    assert "debian-mirrors" in caught.value.hint


def test_named_mirrors_come_before_the_machines(tmp_path: Path) -> None:
    folder = apt(tmp_path / "apt", main="deb http://mirror.example/debian trixie main\n")
    named = ["http://mine.example/debian/", "http://mine.example/debian-security"]
    assert debian_mirrors(named, apt=folder) == Mirrors(
        main=("http://mine.example/debian",), security=("http://mine.example/debian-security",)
    )


# -- signatures ------------------------------------------------------------------------------------------------


def test_the_keys_that_come_with_wain_are_the_archives() -> None:
    import pysequoia

    certs = pysequoia.Cert.split_bytes(KEYRING.read_bytes())
    people = {str(user) for cert in certs for user in cert.user_ids}
    for suite in ("bullseye", "bookworm", "trixie"):
        assert any("Archive Automatic Signing Key (1" in person and suite in person for person in people)
        assert any("Security Archive" in person and suite in person for person in people)
    assert not any(cert.is_revoked for cert in certs)


def test_releases_lists_and_packages(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror, by_hash=True)
    here = archive(mirror, store, tmp_path)
    releases = here.releases("trixie")
    assert [release.codename for release in releases] == ["trixie", "trixie-updates", "trixie-security"]
    found = here.index(releases, "amd64").newest("aa")
    assert found is not None
    assert (found.version, found.origin) == ("1.0-1+deb13u1", "security")
    path = here.deb("aa", filename=found.filename, origin="security", digest=found.digest, size_bytes=found.size_bytes)
    assert Digest.of_file(path) == found.digest
    count = len(mirror.requests)
    here.index(releases, "amd64")
    here.deb("aa", filename=found.filename, origin="security", digest=found.digest, size_bytes=found.size_bytes)
    assert len(mirror.requests) == count, "what the store has is not asked for again"


def test_a_wrong_signature(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror, key="stranger")
    with pytest.raises(SignatureError, match="does not verify") as caught:
        archive(mirror, store, tmp_path).releases("trixie")
    assert caught.value.exit_code == 17
    assert "\n" not in caught.value.message


def test_a_release_that_was_changed_after_it_was_signed(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    path = "debian/dists/trixie/InRelease"
    mirror.files[path] = mirror.files[path].replace(b"Origin: Debian", b"Origin: Debiam")
    with pytest.raises(SignatureError):
        archive(mirror, store, tmp_path).releases("trixie")


@pytest.mark.parametrize("data", [b"", b"Origin: Debian\nCodename: trixie\n", b"-----BEGIN PGP SIGNED MESSAGE-----\n"])
def test_no_signature_at_all(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_inrelease(data, mirror="http://mirror.example/debian", codename="trixie", keyring=keyring(tmp_path))


def test_text_outside_the_signature_does_not_count(tmp_path: Path) -> None:
    good = signed(f"Origin: Debian\nCodename: trixie\nDate: {BEFORE}\nSHA256:\n {'a' * 64} 1 main/x\n")
    evil = b"SHA256:\n " + b"b" * 64 + b" 1 main/x\n"
    for data in (evil + b"\n" + good, good + b"\n" + evil):
        release = verify_inrelease(data, mirror="http://m.example", codename="trixie", keyring=keyring(tmp_path))
        assert release.sums == {"main/x": (Digest("sha256:" + "a" * 64), 1)}


def test_a_second_mirror_is_tried(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    publish_bad = Mirror()
    publish_bad.publish("trixie", [], root="bad", key="stranger")
    mirror.files.update(publish_bad.files)
    here = archive(mirror, store, tmp_path, main=(f"{mirror.url}/bad", f"{mirror.url}/debian"))
    assert here.releases("trixie")[0].mirror == f"{mirror.url}/debian"


@pytest.mark.parametrize("change", [{"says": "bookworm"}, {"origin": "Vendor"}])
def test_another_suites_release_is_refused(
    mirror: Mirror, store: Store, tmp_path: Path, change: dict[str, str]
) -> None:
    publish_all(mirror, **change)
    with pytest.raises(DebianError, match="not of Debian trixie"):
        archive(mirror, store, tmp_path).releases("trixie")


def test_a_suite_that_no_mirror_has(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    with pytest.raises(DebianError, match="no Debian mirror has trixie") as caught:
        archive(mirror, store, tmp_path).releases("trixie")
    assert caught.value.exit_code == 16


def test_offline_says_so(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    here = Archive(Mirrors(main=(f"{mirror.url}/debian",)), store=store, transport=Transport(FAST, offline=True))
    with pytest.raises(Offline):
        here.releases("trixie")
    assert mirror.requests == []


# -- age -------------------------------------------------------------------------------------------------------


def test_an_expired_release(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror, valid_until=DAY)
    with pytest.raises(DebianError, match="has expired on 2030-03-01") as caught:
        archive(mirror, store, tmp_path).releases("trixie")
    assert "Check-Valid-Until" in caught.value.hint
    assert len(archive(mirror, store, tmp_path, check_valid_until=False).releases("trixie")) == 3


def test_an_older_release_than_one_that_was_seen(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror, date=DAY)
    archive(mirror, store, tmp_path).releases("trixie")
    publish_all(mirror, date="Mon, 25 Feb 2030 10:00:00 UTC")
    assert len(archive(mirror, store, tmp_path).releases("trixie")) == 3, "mirrors lag behind each other"
    publish_all(mirror, date=BEFORE)
    with pytest.raises(DebianError, match="is of 2030-01-01, and one of 2030-03-01 was seen before"):
        archive(mirror, store, tmp_path).releases("trixie")
    assert len(archive(mirror, store, tmp_path, check_valid_until=False).releases("trixie")) == 3


def test_without_a_security_archive_the_one_beside_is_used(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    assert len(archive(mirror, store, tmp_path, security=()).releases("trixie")) == 3


def test_without_any_security_archive_there_is_a_warning(
    mirror: Mirror, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.publish("trixie", [])
    mirror.publish("trixie-updates", [])
    with caplog.at_level(logging.WARNING):
        assert len(archive(mirror, store, tmp_path, security=()).releases("trixie")) == 2
    assert [record.message for record in caplog.records] == [
        "no security updates for Debian trixie: no mirror of its security archive is known"
    ]


# -- hashes ----------------------------------------------------------------------------------------------------


def test_a_list_with_other_bytes(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    path = "debian/dists/trixie/main/binary-amd64/Packages.xz"
    mirror.files[path] = mirror.files[path][:-1] + b"!"
    here = archive(mirror, store, tmp_path)
    with pytest.raises(HashMismatch):
        here.index(here.releases("trixie"), "amd64")


def test_a_package_with_other_bytes(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    made = make_deb("aa")
    digest = Digest.of(made.data)
    here = archive(mirror, store, tmp_path)
    for data in (made.data[:-1] + b"!", made.data + b"!"):
        mirror.files[f"debian/{made.filename}"] = data
        with pytest.raises(HashMismatch):
            here.deb("aa", filename=made.filename, origin="main", digest=digest, size_bytes=len(made.data))
        assert store.path(digest) is None


def test_a_damaged_package_in_the_store_is_fetched_again(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    made = make_deb("aa")
    here = archive(mirror, store, tmp_path)
    digest = Digest.of(made.data)
    path = here.deb("aa", filename=made.filename, origin="main", digest=digest, size_bytes=len(made.data))
    path.chmod(0o600)
    path.write_bytes(b"!" * len(made.data))
    again = here.deb("aa", filename=made.filename, origin="main", digest=digest, size_bytes=len(made.data))
    assert again.read_bytes() == made.data


def test_a_package_that_moved_to_the_other_archive_is_found(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    made = make_deb("aa", "1.0-1+deb13u1")
    mirror.files[f"debian/{made.filename}"] = made.data
    here = archive(mirror, store, tmp_path)
    digest = Digest.of(made.data)
    assert here.deb("aa", filename=made.filename, origin="security", digest=digest, size_bytes=len(made.data))


def test_a_package_that_is_gone_says_to_renew_the_lock(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    made = make_deb("aa")
    with pytest.raises(DebianError, match=r"no Debian mirror has aa_1\.0-1_amd64\.deb any more") as caught:
        archive(mirror, store, tmp_path).deb(
            "aa", filename=made.filename, origin="main", digest=Digest.of(made.data), size_bytes=len(made.data)
        )
    assert "wain lock --upgrade" in caught.value.hint


def test_an_architecture_that_the_suite_does_not_have(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    publish_all(mirror)
    here = archive(mirror, store, tmp_path)
    with pytest.raises(DebianError, match="has no packages for arm64"):
        here.index(here.releases("trixie"), "arm64")
