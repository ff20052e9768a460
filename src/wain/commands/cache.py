"""`wain cache`: what the cache holds, and how to make it smaller."""

from __future__ import annotations

import argparse
import functools
import gc
import json
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from wain.commands.console import human_size
from wain.errors import StoreError, UsageError

if TYPE_CHECKING:
    from wain.cachedir import CacheChoice
    from wain.oci import JSON
    from wain.store import Store
    from wain.store_upkeep import Removed, StoredBlob

_DAY = 86400


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `cache` with its own verbs."""
    parser = subparsers.add_parser("cache", help="look at, check and clean the cache")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (help_text, run_verb) in _VERBS.items():
        verb = verbs.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        # The flags that stand everywhere may come after the verb too; there they have no default, so that
        # what was said before it is kept.
        verb.add_argument("--cache-dir", metavar="DIR", default=argparse.SUPPRESS, help="the folder of the cache")
        verb.add_argument("--no-cache-dir", action="store_true", default=argparse.SUPPRESS, help="no cache")
        verb.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="say more")
        verb.add_argument(
            "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print the result alone"
        )
        verb.add_argument("--format", choices=("text", "json"), default="text", help="how to print it")
        if name == "list":
            verb.add_argument("pattern", nargs="?", metavar="PATTERN", help="a distribution, a glob or a digest")
            verb.add_argument("--kind", help="only these: wheel, built-wheel, sdist, layer, base, deb ...")
        if name == "remove":
            verb.add_argument("pattern", metavar="PATTERN", help="a distribution, a glob or a digest")
        if name == "prune":
            verb.add_argument("--max-size", metavar="SIZE", help="how large it may stay (as in 5GB)")
            verb.add_argument("--older-than", metavar="AGE", help="what was not used for so long goes (as in 30d)")
        verb.set_defaults(run_verb=run_verb)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """:raises StoreError: when the cache is switched off or cannot be used."""
    return int(args.run_verb(args))


def _choice(args: argparse.Namespace, *, follows_pip: bool = False) -> CacheChoice:
    from wain.cachedir import choose_cache
    from wain.settings import wain_settings

    return choose_cache(
        flag_dir=getattr(args, "cache_dir", None),
        flag_none=getattr(args, "no_cache_dir", False),
        wain=wain_settings(Path.cwd()),
        follows_pip=follows_pip,
    )


def _open(args: argparse.Namespace) -> Store | None:
    """The store, or None when there is no folder yet: looking at a cache makes none."""
    from wain.store import Store
    from wain.store_folder import Folder, Unusable

    choice = _choice(args)
    if choice.path is None:
        problem = choice.problem or f"the cache is switched off by {choice.origin}"
        raise StoreError(problem, hint="Name a folder with --cache-dir.")
    if not choice.path.exists():
        return None
    try:
        return Store(Folder(choice.path), temporary=False)
    except Unusable as reason:
        raise StoreError(str(reason), hint=reason.hint) from reason


def _dir(args: argparse.Namespace) -> int:
    choice = _choice(args)
    if args.format == "json":
        install = _choice_of_install(args)
        _print_json({**_told(choice), "install": None if install is None else _told(install)})
        return 0
    if choice.path is None:
        problem = choice.problem or f"the cache is switched off by {choice.origin}"
        raise StoreError(problem, hint="Name a folder with --cache-dir.")
    print(choice.path)
    if args.verbose:
        print(f"decided by: {choice.origin}", file=sys.stderr)
        install = _choice_of_install(args)
        if install is not None and install.path != choice.path:
            where = install.path or "no cache"
            print(f"wain install follows pip's switches too, and uses {where}: {install.origin}", file=sys.stderr)
    return 0


def _choice_of_install(args: argparse.Namespace) -> CacheChoice | None:
    """Where `wain install` has its cache; None where pip's configuration is malformed, which it would refuse."""
    try:
        return _choice(args, follows_pip=True)
    except UsageError:
        return None


def _told(choice: CacheChoice) -> dict[str, JSON]:
    return {
        "path": None if choice.path is None else str(choice.path),
        "decided_by": choice.origin,
        "problem": choice.problem or None,
    }


def _info(args: argparse.Namespace) -> int:
    from wain.store_upkeep import uses, uv_bytes, uv_folders

    choice = _choice(args)
    store = _open(args)
    if store is None:
        if args.format == "json":
            _print_json({"path": str(choice.path), "size_bytes": 0, "kinds": {}})
        else:
            print(f"Folder: {choice.path} (nothing is there yet)")
        return 0
    gc.disable()
    folder = store.folder
    contents = store.contents()
    kinds = contents.by_kind()
    memos = sum(amount.count for amount in contents.memos.values())
    memo_bytes = sum(amount.size_bytes for amount in contents.memos.values())
    for_uv, counted = uv_bytes(folder)
    rate = uses(folder).hit_rate
    oldest = min((blob.put_at for blob in contents.blobs), default=None)
    limit = choice.max_size_bytes
    if args.format == "json":
        _print_json(
            {
                "path": str(store.root),
                "decided_by": choice.origin,
                "size_bytes": contents.size_bytes,
                "max_size_bytes": limit,
                "kinds": {
                    kind: {"count": amount.count, "size_bytes": amount.size_bytes} for kind, amount in kinds.items()
                },
                "memos": {"count": memos, "size_bytes": memo_bytes},
                "unfinished": {"count": contents.unfinished.count, "size_bytes": contents.unfinished.size_bytes},
                "uv": {"folders": len(uv_folders(folder)), "size_bytes": for_uv, "complete": counted},
                "hit_rate": rate,
                "oldest": oldest,
            }
        )
        return 0
    print(f"Folder: {store.root}")
    print(f"Size: {human_size(contents.size_bytes)} of at most {human_size(limit)}")
    rows = [(_KINDS.get(kind, kind), amount.count, amount.size_bytes) for kind, amount in kinds.items()]
    rows.append(("results remembered", memos, memo_bytes))
    if contents.unfinished.count:
        rows.append(("unfinished", contents.unfinished.count, contents.unfinished.size_bytes))
    width = max(len(row[0]) for row in rows)
    for name, count, size_bytes in rows:
        print(f"  {name:{width}}  {count:>7}  {human_size(size_bytes):>8}")
    if for_uv:
        print(f"uv's part: {'' if counted else 'more than '}{human_size(for_uv)} (kept by uv)")
    if rate is not None:
        print(f"Found when looked for: {rate:.0%}")
    if oldest is not None:
        print(f"Oldest: {_ago(oldest)}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from wain.store_upkeep import blobs, matching

    store = _open(args)
    gc.disable()
    found: list[StoredBlob] = [] if store is None else list(blobs(store.folder))
    kinds = sorted({blob.kind for blob in found}) if args.kind else []
    if args.kind:
        found = [blob for blob in found if blob.kind == args.kind]
    if args.pattern:
        found = matching(found, args.pattern)
    # They come by name. Sorting twice by one text each is faster than once by two.
    found.sort(key=itemgetter(2))
    found.sort(key=itemgetter(1))
    if args.format == "json":
        _print_json(
            [
                {
                    "digest": _digest(blob),
                    "kind": blob.kind,
                    "note": blob.note,
                    "size_bytes": blob.size_bytes,
                    "put_at": blob.put_at,
                }
                for blob in found
            ]
        )
        return 0
    if not found:
        if not args.quiet:
            what = f"Nothing of kind {args.kind}" if args.kind else "Nothing"
            there = f" (there are: {', '.join(kinds)})" if args.kind and args.kind not in kinds and kinds else ""
            print(f"{what} {f'matches {args.pattern}' if args.pattern else 'is in the cache'}{there}.", file=sys.stderr)
        return 0
    width = max(len(blob.kind) for blob in found)
    now = time.time()
    built = _builds(store) if args.verbose and store is not None else {}
    lines = []
    size = functools.cache(human_size)
    for blob in found:
        line = f"{blob.kind:{width}}  {size(blob.size_bytes):>8}  {blob.note or _digest(blob)}"
        if args.verbose:
            line += f"  ({_digest(blob)}, used {_ago(blob.used_at(), now)})"
            line = "\n".join((line, *(f"{'':{width}}  {'':>8}    {text}" for text in built.get(_digest(blob), ()))))
        lines.append(line)
    print("\n".join(lines))
    if not args.quiet and len(found) > 1:
        print(f"{len(found)} entries, {human_size(sum(map(itemgetter(3), found)))}", file=sys.stderr)
    return 0


def _builds(store: Store) -> dict[str, list[str]]:
    """Of each wheel that was built here: what it was built with, so that a later miss can be understood."""
    from wain.store_upkeep import memos

    found: dict[str, list[str]] = {}
    for memo in memos(store.folder, "built-wheel"):
        parts = memo.get("parts")
        if isinstance(parts, dict):
            found[str(memo.get("digest"))] = [
                f"{name}: {_flat(value)}" for name, value in sorted(parts.items()) if value and name != "recipe"
            ]
    return found


def _flat(value: JSON) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_flat(item)}" for name, item in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    return str(value)


def _remove(args: argparse.Namespace) -> int:
    from wain.store_upkeep import blobs, matching, remove

    store = _open(args)
    found = [] if store is None else matching(blobs(store.folder), args.pattern)
    if not found or store is None:
        raise UsageError(f"nothing in the cache matches {args.pattern}", hint="`wain cache list` shows what is there.")
    return _tell(args, remove(store.folder, found))


def _purge(args: argparse.Namespace) -> int:
    store = _open(args)
    return _tell(args, None if store is None else store.purge())


def _prune(args: argparse.Namespace) -> int:
    from wain.quantities import parse_age, parse_size
    from wain.store_upkeep import prune_uv

    limit = _choice(args).max_size_bytes
    if args.max_size is not None:
        limit = parse_size(args.max_size, what="--max-size")
    age = None if args.older_than is None else parse_age(args.older_than, what="--older-than")
    store = _open(args)
    if store is None:
        return _tell(args, None)
    prune_uv(store.folder)
    return _tell(args, store.prune(max_size_bytes=limit, older_than_seconds=age))


def _verify(args: argparse.Namespace) -> int:
    from wain.store_upkeep import verify

    store = _open(args)
    checked = 0

    def count(_blob: StoredBlob) -> None:
        nonlocal checked
        checked += 1

    bad = [] if store is None else list(verify(store.folder, progress=count))
    if args.format == "json":
        found: list[JSON] = [{"what": item.what, "name": item.name, "note": item.note} for item in bad]
        _print_json({"checked": checked, "dropped": found})
        return 0
    for item in bad:
        print(f"dropped {item.what} {item.note or item.name}")
    if not args.quiet:
        print(f"{checked} entries checked, {len(bad)} dropped", file=sys.stderr)
    return 0


def _tell(args: argparse.Namespace, removed: Removed | None) -> int:
    from wain.store_upkeep import Removed

    removed = removed or Removed()
    if args.format == "json":
        _print_json({"removed": removed.count, "size_bytes": removed.size_bytes, "in_use": removed.in_use})
    elif not args.quiet:
        print(f"Entries removed: {removed.count} ({human_size(removed.size_bytes)})")
        if removed.in_use:
            print(f"Left because something is using them: {removed.in_use}")
    return 0


def _digest(blob: StoredBlob) -> str:
    return f"{'sha256' if len(blob.name) == 64 else 'sha512'}:{blob.name}"


def _ago(moment: float, now: float | None = None) -> str:
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    if seconds < 120:
        return "just now"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes ago"
    if seconds < 2 * _DAY:
        return f"{seconds / 3600:.0f} hours ago"
    return f"{seconds / _DAY:.0f} days ago"


def _print_json(value: JSON) -> None:
    print(json.dumps(value, indent=None if isinstance(value, list) else 2))


_KINDS = {
    "wheel": "wheels downloaded",
    "built-wheel": "wheels built here",
    "sdist": "source distributions",
    "layer": "layers",
    "base": "base images' layers",
    "document": "manifests and configs of images",
    "bytecode": "bytecode",
    "deb": "Debian packages",
    "debian-list": "lists of Debian packages",
    "unknown": "without a name",
}

_VERBS = {
    "dir": ("print the cache's folder; -v says what decided it", _dir),
    "info": ("sizes by kind, hit rate, how old the oldest is", _info),
    "list": ("what is in it: wheels downloaded and built, layers, bases", _list),
    "remove": ("remove what a pattern names", _remove),
    "purge": ("remove everything that nothing is using", _purge),
    "prune": ("remove what is too old or too much, least recently used first", _prune),
    "verify": ("read everything and drop what is damaged", _verify),
}
