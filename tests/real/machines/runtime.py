"""An image unpacked by umoci and run by runc: no daemon, no docker."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.machines.places import remove_tree, require_root, require_tool
from tests.real.machines.processes import Finished, Running, run, running

_LIST_TYPES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}


def fetch_page(
    port: int,
    path: str = "/",
    *,
    timeout_seconds: float = 30,
    server: Running | None = None,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """(status, body) of `path` on 127.0.0.1:`port`, asked for until something answers.

    :raises AssertionError: when nothing answers within `timeout_seconds`, or `server` has ended; it shows the
        end of the server's output
    """
    deadline = time.monotonic() + timeout_seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body=body, headers=dict(headers or {}))
                answer = connection.getresponse()
                return answer.status, answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                last = error
        if server is not None and server.process.poll() is not None:
            raise AssertionError(f"the server on port {port} ended before it answered\n{server.tail()}")
        time.sleep(0.1)
    told = f"\n{server.tail()}" if server is not None else ""
    raise AssertionError(f"nothing answers on port {port} in {timeout_seconds} s: {last}{told}")


def unpack_archive(archive: Path, folder: Path) -> Path:
    """An OCI layout in `folder` (made if missing) with what `archive` (docker's or OCI's) holds."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        has_layout = any(member.name.removeprefix("./") == "oci-layout" for member in tar)
    if has_layout:
        run(["tar", "-xf", archive, "-C", folder, "--no-same-owner"])
    else:
        run(
            [require_tool("skopeo"), "copy", "--insecure-policy", f"docker-archive:{archive}", f"oci:{folder}:image"],
            timeout_seconds=600,
        )
    return folder


def select_manifest(layout: Path, *, tag: str | None = None, architecture: str | None = None) -> dict[str, Any]:
    """The descriptor of the image in an OCI layout that has that tag and architecture.

    Without a tag the layout must hold one image (an index counts as one). Indexes are followed.

    :raises AssertionError: when there is not exactly one
    """
    wanted = architecture or _own_architecture()
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    if tag is not None:
        entries = [
            entry for entry in entries if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
        ]
    found = []
    while entries:
        entry = entries.pop(0)
        if entry["mediaType"] in _LIST_TYPES:
            inner = json.loads(blob_path(layout, entry["digest"]).read_text())["manifests"]
            entries.extend(inner)
        elif entry.get("platform", {}).get("architecture", wanted) == wanted:
            found.append(entry)
    digests = {entry["digest"] for entry in found}
    if len(digests) != 1:
        raise AssertionError(f"{layout} has {len(digests)} images for tag {tag} and {wanted}, not 1")
    descriptor: dict[str, Any] = found[0]
    return descriptor


def blob_path(layout: Path, digest: str) -> Path:
    """The file of a blob in an OCI layout."""
    algorithm, _, hexadecimal = digest.partition(":")
    return layout / "blobs" / algorithm / hexadecimal


def _own_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An unpacked image. Its `rootfs` may be looked at; what containers write is seen there too."""

    folder: Path
    spec: dict[str, Any]
    image_config: dict[str, Any]

    @property
    def rootfs(self) -> Path:
        return self.folder / "rootfs"

    def run(
        self,
        arguments: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        host_network: bool = False,
        read_only: bool = False,
        binds: Mapping[Path, str] | None = None,
        emulator: Path | None = None,
        timeout_seconds: float = 120,
        check: bool = True,
    ) -> Finished:
        """Run a container to its end: the image's own command, or `arguments` in its place.

        `arguments[0]` without a slash is looked up on the image's PATH, but not where an `emulator`
        (as qemu-aarch64-static) starts it. `binds` are files or folders of the host, read-only.

        :raises AssertionError: when it fails, unless `check` is false, and when it takes too long
        """
        with self._container(arguments, env, user, host_network, read_only, binds, emulator) as command:
            return run(command, timeout_seconds=timeout_seconds, check=check)

    @contextlib.contextmanager
    def serve(
        self,
        arguments: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        read_only: bool = False,
        emulator: Path | None = None,
    ) -> Iterator[Running]:
        """Run a container in the host's network until the block ends; `fetch_page` then asks it.

        SIGTERM ends it, and after 1 s SIGKILL: as process 1 many programs do not heed the first.
        """
        with self._container(arguments, env, user, True, read_only, None, emulator) as command:
            log = self.folder / f"{uuid.uuid4().hex}.log"
            # runc passes SIGTERM on to the container it runs in the foreground.
            with running(command, log=log, stop_seconds=1) as container:
                yield container

    @contextlib.contextmanager
    def _container(
        self,
        arguments: Sequence[str] | None,
        env: Mapping[str, str] | None,
        user: tuple[int, int] | None,
        host_network: bool,
        read_only: bool,
        binds: Mapping[Path, str] | None,
        emulator: Path | None,
    ) -> Iterator[list[str]]:
        """The command that runs it; afterwards the container is gone, whatever happened."""
        require_root()
        runc = str(require_tool("runc"))
        name = f"wain-tests-{uuid.uuid4().hex[:12]}"
        spec = copy.deepcopy(self.spec)
        process = spec["process"]
        process["terminal"] = False
        if arguments is not None:
            process["args"] = list(arguments)
        # umoci writes HOME itself; what the image says of PATH and the rest is already here.
        process["env"] = [*process["env"], *(f"{key}={value}" for key, value in (env or {}).items())]
        if user is not None:
            process["user"] = {"uid": user[0], "gid": user[1]}
        process.pop("rlimits", None)
        spec["root"] = {"path": str(self.rootfs), "readonly": read_only}
        spec["hostname"] = "wain-tests"
        linux = spec["linux"]
        linux["cgroupsPath"] = f"/{name}"
        linux.pop("resources", None)
        spec["mounts"] = [
            mount
            for mount in spec["mounts"]
            if mount["type"] != "cgroup" and mount["destination"] != "/etc/resolv.conf"
        ]
        for source, target in {**(binds or {})}.items():
            spec["mounts"].append(
                {"destination": target, "type": "none", "source": str(source), "options": ["rbind", "ro"]}
            )
        if emulator is not None:
            spec["mounts"].append(
                {"destination": "/.emulator", "type": "none", "source": str(emulator), "options": ["bind", "ro"]}
            )
            process["args"] = ["/.emulator", *process["args"]]
        if host_network:
            linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
            # sysfs cannot be mounted anew in another's network namespace; the host's is bound, read-only.
            for mount in spec["mounts"]:
                if mount["type"] == "sysfs":
                    mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
        bundle = self.folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        state = self.folder / "state"
        try:
            yield [runc, "--root", str(state), "run", "--bundle", str(bundle), name]
        finally:
            run([runc, "--root", state, "delete", "--force", name], check=False, timeout_seconds=20)
            remove_tree(bundle)


def unpack_image(image: Path, folder: Path, *, tag: str | None = None, architecture: str | None = None) -> Bundle:
    """Unpack an OCI layout's folder or an archive's file with umoci into `folder`, which must not exist.

    Needs root, so that owners are the image's. :raises AssertionError: when umoci refuses the image
    """
    require_root()
    umoci = require_tool("umoci")
    folder.mkdir(parents=True)
    layout = image if image.is_dir() else unpack_archive(image, folder / "archive")
    descriptor = select_manifest(layout, tag=tag, architecture=architecture)
    # umoci finds an image by its tag only, so a layout beside gives it one; the blobs are the same files.
    view = folder / "layout"
    view.mkdir()
    (view / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (view / "blobs").symlink_to((layout / "blobs").resolve())
    named = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (view / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    bundle = folder / "bundle"
    run([umoci, "unpack", "--image", f"{view}:image", bundle], timeout_seconds=600)
    manifest = json.loads(blob_path(layout, descriptor["digest"]).read_text())
    return Bundle(
        folder=bundle,
        spec=json.loads((bundle / "config.json").read_text()),
        image_config=json.loads(blob_path(layout, manifest["config"]["digest"]).read_text()),
    )


Unpack = Callable[..., Bundle]
"""`unpack_image` without its folder: what the fixture `unpack` gives."""
