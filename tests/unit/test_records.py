"""Records: what their repr tells, and which of their fields make them equal."""

from __future__ import annotations

from typing import ClassVar

import pytest
from msgspec.structs import replace

from wain.records import Record
from wain.settings import IndexSettings
from wain.urls import Credentials


class Letter(Record, frozen=True, kw_only=True):
    unshown: ClassVar = ("seal",)
    uncompared: ClassVar = ("sent",)

    text: str
    seal: str = ""
    sent: int = 0


class Card(Letter, frozen=True, kw_only=True):
    picture: str = ""


def test_what_is_unshown_is_in_no_repr() -> None:
    assert repr(Card(text="hi", seal="s3cret", picture="sea")) == "Card(text='hi', sent=0, picture='sea')"


def test_what_is_uncompared_makes_no_difference() -> None:
    one, other = Letter(text="hi", sent=1), Letter(text="hi", sent=2)
    assert one == other
    assert len({one, other}) == 1
    assert one != replace(one, seal="wax")
    assert one != Card(text="hi", sent=1)


def test_records_do_not_change() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Letter(text="hi").text = "bye"  # type: ignore[misc]


def test_secrets_stay_out_of_what_is_shown() -> None:
    settings = IndexSettings(
        index_url="https://user:s3cret@index.example/simple", proxy="http://me:s3cret@proxy.example"
    )
    assert "s3cret" not in repr((settings, Credentials(username="user", password="s3cret")))
