"""wain and pip give the same files, for distributions with every oddity that wheels have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.real import parity as parity_module
from tests.real.machines.index_front import IndexFront
from tests.real.machines.places import remove_tree
from tests.real.machines.runtime import unpack_image
from tests.real.machines.wain import Wain
from tests.real.parity import Compared, Distribution, Parity, batches, compare_trees
from tests.unit.small_wheel import small_wheel

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("parity")]

PIP, LISTED, ALLOWED = parity_module.load()
LIGHT = batches([one for one in LISTED if not one.heavy])


@pytest.fixture(scope="module")
def parity(wain: Wain, index_front: IndexFront, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parity]:
    folder = tmp_path_factory.mktemp("parity")
    yield Parity(folder, front=index_front, wain=wain, pip=PIP, allowed=ALLOWED)
    remove_tree(folder)


def check(compared: Compared, batch: Sequence[Distribution]) -> None:
    told = "\n".join(str(difference) for difference in compared.differences[:40])
    assert not compared.differences, f"{len(compared.differences)} differences\n{told}"
    assert len(compared.distributions) == len(batch)
    told = "\n".join(str(difference) for difference in compared.installed_differently[:40])
    assert not compared.installed_differently, (
        f"wain install: {len(compared.installed_differently)} differences\n{told}"
    )
    assert compared.installed


def test_the_list_has_sixty_distributions_with_a_reason_each_and_ten_that_run() -> None:
    assert len({one.name for one in LISTED if not one.heavy}) >= 60
    assert len([one for one in LISTED if one.run]) >= 10
    assert all(one.why and one.version for one in LISTED)
    assert all(one.reason for one in ALLOWED)


@pytest.mark.parametrize("batch", LIGHT, ids=lambda batch: f"{batch[0].python}-{batch[0].name}-{len(batch)}")
def test_the_files_are_those_of_pip_and_what_can_run_runs(
    batch: Sequence[Distribution], parity: Parity, tmp_path: Path
) -> None:
    compared = parity.compare(batch)
    check(compared, batch)
    if len(batch) == 2 and batch[0].batch:
        assert "is in jwt, pyjwt; that of jwt is taken" in compared.wain_told
    commands = [one.run for one in batch if one.run]
    if commands:
        bundle = unpack_image(compared.image, tmp_path / "image", tag="parity")
        script = (
            "import shlex, subprocess, sys\n"
            "failed = []\n"
            "for line in sys.argv[1:]:\n"
            "    done = subprocess.run(shlex.split(line), capture_output=True, text=True)\n"
            "    if done.returncode: failed.append(f'{line}: {done.returncode} {done.stdout} {done.stderr}')\n"
            "sys.exit('\\n'.join(failed) or 0)\n"
        )
        bundle.run(["python", "-c", script, *commands])
        remove_tree(tmp_path / "image")


def test_names_that_no_real_distribution_has(parity: Parity, tmp_path: Path) -> None:
    """Case, signs, length and emptiness, in every kind of place, in one wheel beside another with its namespace."""
    long = "/".join(["a" * 60] * 3)
    small_wheel(
        tmp_path,
        "Odd.Names",
        {
            "odd/Case.py": "x = 1\n",
            "odd/case.py": "x = 2\n",
            "odd/CASE/data": "3",
            "odd/grüße/日本語.txt": "ä",
            "odd/decomposed/e\u0301.txt": "1",
            "odd/decomposed/\u00e9.txt": "2",
            "odd/with space, comma.txt": "",
            'odd/with "quotes".txt': "quoted",
            "odd/-dash": "",
            "odd/ leading": "",
            "odd/back\\slash.txt": "",
            f"odd/{long}/deep.txt": "deep",
            f"odd/{'n' * 200}.txt": "long",
            "odd/empty.py": "",
            "odd/__pycache__/shipped.cpython-313.pyc": b"\0" * 16,
            "Odd.Names-1.0.data/platlib/odd/plat.py": "",
            "Odd.Names-1.0.data/purelib/pure_top.py": "x = 1\n",
            "Odd.Names-1.0.data/data/share/odd/ünï.txt": "",
            "Odd.Names-1.0.data/data/etc/deep/er/conf": "1",
            "Odd.Names-1.0.data/headers/sub/odd.h": "",
            "Odd.Names-1.0.data/scripts/odd-script": "#!python\nprint('odd')\n",
            "Odd.Names-1.0.data/scripts/odd-pythonw": "#!pythonw -u\nprint('odd')\n",
            "Odd.Names-1.0.data/scripts/odd-shell": "#!/bin/sh\n",
            "Odd.Names-1.0.data/scripts/odd-empty": "",
            "odd-names.pth": "# nothing\n",
        },
        scripts={"odd-point": "odd.case:x.y", "Odd_Point.2": "odd.Case:main"},
        purelib=False,
    )
    small_wheel(tmp_path, "odd_more", {"odd/more.py": "", "odd/empty.py": ""})
    batch = [Distribution(name="Odd.Names", version="1.0"), Distribution(name="odd_more", version="1.0")]
    check(parity.compare(batch, links=tmp_path), batch)


def test_a_difference_of_any_kind_is_seen(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    record = "lib/python3.13/site-packages/x-1.dist-info/RECORD"
    for root in (theirs, ours):
        (root / record).parent.mkdir(parents=True)
        (root / "bin").mkdir()
        for name in ("same", "bytes", "mode", "kind"):
            (root / name).write_text(name)
        (root / "bin/launch").write_text(
            "#!/opt/venv/bin/python\nimport sys\nfrom x import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
        )
        (root / "link").symlink_to("same")
        (root / record).write_text("x.py,sha256=x,1\n")
    (theirs / "theirs").mkdir()
    (ours / "ours").touch()
    (ours / "bytes").write_text("other")
    (ours / "mode").chmod(0o755)
    (ours / "kind").unlink()
    (ours / "kind").symlink_to("same")
    (ours / "link").unlink()
    (ours / "link").symlink_to("bytes")
    (ours / "bin/launch").write_text((ours / "bin/launch").read_text().replace("main", "other"))
    for root, text in ((theirs, "1"), (ours, "2")):
        (root / "lib/python3.13/site-packages/x.py").write_text(text)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _, found = compare_trees(theirs, ours, base=tmp_path, wheels=wheels)
    assert {(one.path.rpartition("/")[2], one.what) for one in found} == {
        ("theirs", "only pip"),
        ("ours", "only wain"),
        ("bytes", "bytes"),
        ("mode", "executable"),
        ("kind", "kind"),
        ("link", "link"),
        ("launch", "launcher"),
        ("RECORD", "record"),
        ("x.py", "bytes"),
    }
