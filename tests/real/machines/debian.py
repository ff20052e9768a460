"""Debian releases as folders, made by mmdebstrap from the mirror that this machine's apt uses."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.places import find_tool, missing, require_root, require_tool
from tests.real.machines.processes import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One apt source of this machine: a mirror's URI and a suite on it."""

    uri: str
    suite: str
    signed_by: str | None


def apt_sources() -> list[Source]:
    """What /etc/apt/sources.list and sources.list.d say, in apt's order; disabled and source-only entries left out."""
    return list(_sources(Path("/etc/apt")))


def _sources(folder: Path) -> Iterator[Source]:
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for path in lists:
        if not path.is_file():
            continue
        if path.suffix == ".list":
            for line in path.read_text().splitlines():
                found = re.match(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)", line.strip())
                if found:
                    signed = re.search(r"signed-by=(\S+)", found["options"] or "")
                    yield Source(
                        uri=found["uri"].rstrip("/"),
                        suite=found["suite"],
                        signed_by=signed[1] if signed else None,
                    )
        elif path.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", path.read_text()):
                lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
                lines = re.sub(r"\n[ \t]+", " ", lines)
                fields = {
                    key.strip().lower(): value.strip()
                    for key, _, value in (line.partition(":") for line in lines.splitlines())
                }
                if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
                    continue
                for uri in fields.get("uris", "").split():
                    for suite in fields.get("suites", "").split():
                        yield Source(uri=uri.rstrip("/"), suite=suite, signed_by=fields.get("signed-by"))


@functools.cache
def main_mirror() -> str:
    """The URI of this machine's mirror of Debian itself (not of the security archive).

    It is one whose Release, as apt fetched it, says `Origin: Debian` and `Label: Debian`; without one the test is
    left out, or fails where CI=true.
    """
    for source in apt_sources():
        release = _release_fields(source)
        if release.get("origin") == "Debian" and release.get("label") == "Debian":
            return source.uri
    missing("needs an apt source whose Release says Origin: Debian (and `apt-get update` run once)")
    raise AssertionError("unreachable")


def _release_fields(source: Source) -> dict[str, str]:
    """Head of the Release file that apt keeps of that source; empty where it has none."""
    stem = re.sub(r"^\w+://", "", source.uri).replace("_", "%5f").replace("/", "_")
    for kind in ("InRelease", "Release"):
        path = Path(f"/var/lib/apt/lists/{stem}_dists_{source.suite.replace('/', '_')}_{kind}")
        if path.is_file():
            head = path.read_text(errors="replace").split("\nMD5Sum:")[0].split("\nSHA256:")[0]
            return {
                key.strip().lower(): value.strip()
                for key, _, value in (line.partition(":") for line in head.splitlines())
            }
    return {}


def debian_architecture() -> str:
    """This machine's architecture as Debian calls it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def make_root(
    target: Path,
    suite: str,
    packages: Sequence[str],
    *,
    variant: str = "apt",
    architecture: str | None = None,
    extra: Sequence[str] = (),
    source_packages: bool = False,
) -> None:
    """Make a Debian root of `packages` and what they depend on (nothing recommended) at `target`.

    `target` is a folder, or a file if its name ends in `.tar`. `variant` and `extra` are mmdebstrap's. Takes half a
    minute and more.
    """
    require_root()
    mirror = main_mirror()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    lines = [f"deb {signed}{mirror} {suite} main"]
    if source_packages:
        lines.append(f"deb-src {signed}{mirror} {suite} main")
    command: list[str | Path] = [
        require_tool("mmdebstrap"),
        "--quiet",
        f"--variant={variant}",
        "--mode=root",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        "--aptopt=Acquire::Retries 3",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=force-unsafe-io",
        *extra,
    ]
    if packages:
        command.append(f"--include={','.join(packages)}")
    if architecture is not None:
        command.append(f"--architectures={architecture}")
    # Unpacking does not wait for the disk: what is half made is thrown away anyway.
    eatmydata = find_tool("eatmydata")
    run(
        [*([eatmydata] if eatmydata else []), *command, suite, target, *lines],
        timeout_seconds=900,
        env={"SOURCE_DATE_EPOCH": "1735689600", "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
    )
