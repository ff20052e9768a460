"""Tar headers: another program reads back what went in."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from wain.ustar import BLOCK_BYTES, END, header

PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=120),
    min_size=1,
    max_size=5,
).map("/".join)


@given(
    PATHS,
    st.sampled_from(["file", "directory", "symlink", "hardlink"]),
    st.integers(0, 0o7777),
    st.integers(0, 1 << 40),
    st.integers(-(1 << 40), 1 << 40),
    st.integers(0, 1 << 31),
    PATHS,
)
def test_what_goes_in_comes_out(
    path: str, kind: str, mode: int, size_bytes: int, mtime: int, uid: int, target: str
) -> None:
    """pax: "The path record shall override the name and prefix fields"."""
    is_link = kind in ("symlink", "hardlink")
    data = header(
        path,
        kind,
        mode=mode,
        size_bytes=size_bytes if kind == "file" else 0,
        mtime=mtime,
        uid=uid,
        gid=uid // 2,
        target=target if is_link else "",
    )
    assert len(data) % BLOCK_BYTES == 0
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        info = tar.next()
    assert info is not None
    assert info.name == path
    assert (info.isfile(), info.isdir(), info.issym(), info.islnk()) == tuple(
        kind == other for other in ("file", "directory", "symlink", "hardlink")
    )
    assert (info.mode, info.mtime, info.uid, info.gid) == (mode, mtime, uid, uid // 2)
    assert info.size == (size_bytes if kind == "file" else 0)
    assert info.linkname == (target if is_link else "")
