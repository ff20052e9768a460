"""Folders of find-links as an index that tells hashes.

uv unpacks every local file whole into its cache to learn its hash (a 192 MB wheel: 14 s and 700 MB); of an index
whose pages tell hashes it reads the metadata alone. So the folders' files are hashed here, once for each file.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from wain.digest import Digest
from wain.index_pages import distribution_of
from wain.store import Store, recipe_key

logger = logging.getLogger(__name__)

_MAX_TOTAL_BYTES = 4 << 30
"""Folders with more are left to uv, which hashes only what it takes."""


def local_folders(links: Sequence[str], base: Path) -> dict[str, Path]:
    """Those links that are folders of this machine, with their paths."""
    found = {}
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        path = Path(unquote(urlsplit(link).path)) if link.startswith("file:") else base / Path(link).expanduser()
        if path.is_dir():
            found[link] = path.absolute()
    return found


def write_index(folders: Sequence[Path], destination: Path, store: Store) -> bool:
    """Writes an index of all distributions in the folders; false, and nothing written, where they are too large.

    :param destination: an empty folder, which becomes the index's root.
    """
    pages: dict[str, list[tuple[str, str]]] = {}
    total = 0
    wanted: list[tuple[str, Path]] = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            name = distribution_of(path.name)
            if name is None or not path.is_file():
                continue
            total += path.stat().st_size
            wanted.append((name, path))
    if total > _MAX_TOTAL_BYTES:
        logger.info("find-links hold %d MB and are left to uv to read", total >> 20)
        return False
    for name, path in wanted:
        try:
            digest = file_digest(path, store)
        except OSError as error:
            logger.warning("%s of find-links is left out: %s", path, error.strerror)
            continue
        href = f"file://{quote(str(path))}#sha256={digest.hex}"
        pages.setdefault(name, []).append((href, path.name))
    for name, links in pages.items():
        (destination / name).mkdir()
        body = "".join(f'<a href="{html.escape(href)}">{html.escape(text)}</a>\n' for href, text in links)
        (destination / name / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{body}</body></html>\n", "utf-8")
    return True


def file_digest(path: Path, store: Store) -> Digest:
    """The SHA-256 of a local file, remembered for as long as its size, times and inode stay as they are.

    What is fetched by it is hashed again.

    :raises OSError: when the file cannot be read.
    """
    status = path.stat()
    key = recipe_key(
        {
            "recipe": "file-digest/1",
            "path": str(path),
            "size": status.st_size,
            "modified": status.st_mtime_ns,
            "changed": status.st_ctime_ns,
            "inode": [status.st_dev, status.st_ino],
        }
    )
    memo = store.memo("file-digest", key)
    if memo is not None and isinstance(text := memo.get("digest"), str):
        return Digest(text)
    digest = Digest.of_file(path)
    store.put_memo("file-digest", key, {"digest": str(digest)})
    return digest
