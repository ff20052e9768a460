from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.unit.debian_maker import Made, make_deb
from wain.debian_packages import PackageIndex, Relation, parse_fields, parse_relations, resolve, version_key
from wain.errors import DebianError

# Each older than the next; policy 5.6.12's own cases among them.
ORDER = [
    "~~", "~~a", "~", "0", "0.0~rc1", "0.0.1", "1~", "1", "1a", "1+b1", "1.0~beta1~svn1245", "1.0~beta1", "1.0",
    "1.0-1~deb12u1", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0-10", "1.0.1-1", "1.10-1",
    "2026b-0+deb12u1", "2026c-0+deb13u1", "1:0.1", "1:1.3.dfsg+really1.3.1-1+b1", "2:0",
]  # fmt: skip


def test_versions_sort_as_dpkg_sorts_them() -> None:
    assert all(version_key(older) < version_key(newer) for older, newer in pairwise(ORDER))


@pytest.mark.parametrize(("one", "other"), [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.00", "1.0"), ("1.2-", "1.2")])
def test_versions_that_are_equal_in_other_words(one: str, other: str) -> None:
    assert version_key(one) == version_key(other)


def test_relations() -> None:
    groups = parse_relations("libc6 (>= 2.36), python3:any, awk | mawk:amd64 (<<2), libfoo [amd64]")
    assert [[str(item) for item in group] for group in groups] == [
        ["libc6 (>= 2.36)"], ["python3"], ["awk", "mawk (<< 2)"], ["libfoo"],
    ]  # fmt: skip
    with pytest.raises(DebianError, match="a relation that is none"):
        parse_relations("libc6 (>= ")


@pytest.mark.parametrize(
    ("operator", "fits"),
    [("<<", False), ("<=", True), ("=", True), (">=", True), (">>", False), ("", True)],
)
def test_relation_fits(operator: str, fits: bool) -> None:
    assert Relation("x", operator, "1.0" if operator else "").fits("1.0") is fits


def test_fields_keep_continuation_lines() -> None:
    assert parse_fields("A: 1\nB: x\n y\n .\nC:\n") == {"A": "1", "B": "x\n y\n .", "C": ""}


def index_of(*packages: Made, security: tuple[Made, ...] = ()) -> PackageIndex:
    return PackageIndex(
        (origin, "\n".join(item.stanza() for item in some).encode())
        for origin, some in (("main", packages), ("security", security))
    )


def names(index: PackageIndex, *wanted: str) -> list[str]:
    return [package.name for package in resolve(index, wanted)]


def test_the_newest_version_of_all_pockets_counts() -> None:
    index = index_of(make_deb("aa", "1.0-1"), make_deb("aa", "1.0-1+b1"), security=(make_deb("aa", "1.0-1+deb13u1"),))
    found = index.newest("aa")
    assert found is not None
    assert (found.version, found.origin) == ("1.0-1+deb13u1", "security")
    assert index.newest("bb") is None


def test_dependencies_are_followed_and_scripts_needs_are_not() -> None:
    index = index_of(
        make_deb("app", Depends="liba (>= 1), debconf | debconf-2.0", Pre_Depends="libc6"),
        make_deb("liba", "1.5", Depends="libc6, adduser"),
        make_deb("libc6"),
        make_deb("adduser", Depends="perl"),
        make_deb("debconf"),
    )
    assert names(index, "app") == ["app", "liba", "libc6"]
    assert names(index, "debconf") == ["debconf"]


def test_openssl_is_left_out_for_the_certificates_only() -> None:
    index = index_of(
        make_deb("ca-certificates", Depends="openssl (>= 1.1.1)"),
        make_deb("openssl"),
        make_deb("xx", Depends="openssl"),
    )
    assert names(index, "ca-certificates") == ["ca-certificates"]
    assert names(index, "ca-certificates", "xx") == ["ca-certificates", "openssl", "xx"]


def test_of_alternatives_what_is_chosen_wins_then_the_first() -> None:
    index = index_of(
        make_deb("app", Depends="one | two, three | one"), make_deb("two"), make_deb("one"), make_deb("three")
    )
    assert names(index, "app") == ["app", "one"]
    assert names(index, "two", "app") == ["app", "three", "two"]


def test_provided_names_with_versions() -> None:
    index = index_of(
        make_deb("app", Depends="libssl3 (>= 3.1)"),
        make_deb("old", Provides="libssl3 (= 3.0)"),
        make_deb("libssl3t64", "3.5", Provides="libssl3 (= 3.5), other"),
        make_deb("bare", Provides="libssl3"),
        make_deb("user", Depends="other"),
    )
    assert names(index, "app") == ["app", "libssl3t64"]
    assert names(index, "user") == ["libssl3t64", "user"]
    assert names(index, "other") == ["libssl3t64"]


def test_present_packages_are_not_chosen_again() -> None:
    index = index_of(make_deb("aa", Depends="cc"), make_deb("bb", Depends="cc, dd"), make_deb("cc"), make_deb("dd"))
    base = resolve(index, ["aa"])
    assert [package.name for package in resolve(index, ["bb"], present=base)] == ["bb", "dd"]


def test_a_circle_of_dependencies_ends() -> None:
    assert names(index_of(make_deb("aa", Depends="bb"), make_deb("bb", Depends="aa")), "aa") == ["aa", "bb"]


def test_what_cannot_be_had_is_named() -> None:
    index = index_of(make_deb("app", Depends="liba (>> 2) | libb"), make_deb("liba", "2"))
    with pytest.raises(DebianError, match=r"app 1.0-1 depends on liba \(>> 2\) \| libb"):
        resolve(index, ["app"])
    with pytest.raises(DebianError, match="Debian has no package nothing"):
        resolve(index, ["nothing"])


def test_several_providers_are_named_not_guessed() -> None:
    index = index_of(make_deb("postfix", Provides="mta"), make_deb("exim", Provides="mta"))
    with pytest.raises(DebianError) as caught:
        resolve(index, ["mta"])
    assert "exim, postfix" in caught.value.hint


def test_packages_that_exclude_each_other() -> None:
    index = index_of(
        make_deb("aa", Conflicts="virtual"),
        make_deb("bb", Provides="virtual"),
        make_deb("cc", Breaks="dd (<< 1)"),
        make_deb("dd"),
    )
    with pytest.raises(DebianError, match=r"aa 1.0-1 cannot stand beside bb"):
        resolve(index, ["aa", "bb"])
    assert names(index, "cc", "dd") == ["cc", "dd"]


def test_a_package_may_conflict_with_a_name_it_provides() -> None:
    assert names(index_of(make_deb("aa", Provides="vv", Conflicts="vv")), "aa") == ["aa"]


@pytest.mark.parametrize(
    "change",
    [
        ("Filename: pool/", "Filename: ../pool/"),
        ("Filename: pool/", "Filename: /pool/"),
        ("Size: ", "Size: -"),
        ("SHA256: ", "MD5sum: "),
        ("Version: 1.0-1", "Version: 1 0"),
        (".deb", ".exe"),
    ],
)
def test_a_malformed_entry_is_refused(change: tuple[str, str]) -> None:
    text = make_deb("aa").stanza().replace(*change)
    with pytest.raises(DebianError, match="entry of aa"):
        PackageIndex([("main", text.encode())]).newest("aa")


def test_numbers_of_any_length_are_compared() -> None:
    assert version_key("1." + "9" * 5000) < version_key("1.1" + "0" * 5000)
    assert version_key("1.007") == version_key("1.7")
    assert Relation("a", ">=", "1").fits("9" * 6000 + ":1")


def test_a_stanza_of_many_lines_is_read_in_time_that_grows_with_it() -> None:
    began = time.process_time()
    fields = parse_fields("Description: a\n" + " b\n" * 400_000)
    assert len(fields["Description"]) == 1 + 400_000 * 3
    assert time.process_time() - began < 5


def test_lines_that_go_on_after_what_is_no_field_are_left_out() -> None:
    assert parse_fields("Package: a\nno field\n more\nVersion: 1\n") == {"Package": "a", "Version": "1"}
    assert parse_fields(" more\nA: 1\n") == {"A": "1"}
