"""What holds of `fix` for any Dockerfile."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import wain.fix
from tests.unit.go_parser import official_rows
from wain.dockerfile import parse
from wain.findings import Edit
from wain.fix import Fixed, fix


def check_fix(text: str, *, unsafe: bool = False, name: str = "Dockerfile") -> Fixed:
    """Mend a text that parses: bytes outside the edits stay, instructions too, and a second run has nothing to do.

    :raises DockerfileError: where the text does not parse.
    """
    steps: dict[str, set[str]] = {}
    applied = wain.fix.apply_edits

    def recorded(before: str, edits: tuple[Edit, ...]) -> str:
        after = applied(before, edits)
        assert after == _spliced(before, edits), edits
        steps.setdefault(after, set()).add(before)
        return after

    with mock.patch.object(wain.fix, "apply_edits", recorded):
        result = fix(text, unsafe=unsafe, name=name)
    # The result comes from the text by edits alone.
    reached = {result.after}
    while text not in reached:
        reached, before = {one for after in reached for one in steps[after]}, reached
        assert reached and reached != before
    assert str(parse(result.after)) == result.after
    again = fix(result.after, unsafe=unsafe, name=name)
    assert again.after == result.after
    was, now = (Counter(one.keyword for one in parse(one).instructions) for one in (text, result.after))
    # Variables are set, a chown becomes part of COPY, a secret ARG a mount, and copies are taken apart; nothing else.
    assert set(now - was) <= {"ENV", "COPY"}, now - was
    assert set(was - now) <= {"RUN", "ARG"} and (unsafe or not was - now), was - now
    # The binding of the official parser stops at NUL, and dies of what is no UTF-8.
    if "\x00" not in text and not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert (official_rows(result.after) is None) == (official_rows(text) is None), result.after
    return result


def _spliced(text: str, edits: tuple[Edit, ...]) -> str:
    """The edits applied from the last to the first, each on its own."""
    for edit in sorted(set(edits), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
