"""The machines that the other real tests stand on work, shown with images that owe nothing to wain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.machines import places
from tests.real.machines.layouts import write_layout
from tests.real.machines.processes import run, running
from tests.real.machines.registry import Registry

pytestmark = pytest.mark.real


def tiny_layout(folder: Path) -> Path:
    """An image with one file, made without a base: enough for programs that only copy."""
    root = folder / "root"
    root.mkdir(parents=True)
    (root / "hello.txt").write_text("hello\n")
    run(["tar", "-cf", folder / "layer.tar", "--owner=0", "--group=0", "-C", root, "hello.txt"])
    layout = folder / "layout"
    write_layout(layout, [folder / "layer.tar"], {"Cmd": ["/hello"]})
    return layout


def test_a_missing_tool_skips_and_with_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program"):
        places.require_tool("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs no-such-program"):
        places.require_tool("no-such-program")


def test_what_is_kept_is_made_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIN_TESTS_CACHE", str(tmp_path))

    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        places.kept("thing", fails)
    assert not list(tmp_path.glob("*thing*"))
    made = places.kept("thing", lambda folder: (folder / "whole").touch())
    assert places.kept("thing", fails) == made
    assert (made / "whole").exists()


def test_a_running_program_ends_with_its_block(tmp_path: Path) -> None:
    with running(["sleep", "100"], log=tmp_path / "log") as sleeper:
        pid = sleeper.process.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(AssertionError, match=r"took over 0\.2 s"):
        run(["sleep", "100"], timeout_seconds=0.2)


def test_skopeo_pushes_to_the_registry_and_its_log_tells(registry: Registry, tmp_path: Path) -> None:
    skopeo = places.require_tool("skopeo")
    layout = tiny_layout(tmp_path)
    mark = registry.mark()
    run([skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:latest",
         f"docker://{registry.host}/machines/tiny:1"])  # fmt: skip
    sent = registry.requests(mark)
    assert sent[-1].method == "PUT" and sent[-1].path.endswith("/manifests/1") and sent[-1].status == 201
    for digest in (path.name for path in (layout / "blobs/sha256").iterdir()):
        assert registry.blob_path(f"sha256:{digest}").exists()
        assert f"sha256:{digest}" in registry.blobs()


def test_the_guarded_registries_want_what_they_should(
    registry_with_password: Registry, registry_with_tls: Registry, tmp_path: Path
) -> None:
    skopeo = places.require_tool("skopeo")
    layout = tiny_layout(tmp_path)
    target = f"docker://{registry_with_password.host}/machines/tiny:1"
    copy = [skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:latest", target]
    refused = run([*copy, "--dest-no-creds"], check=False)
    assert refused.code != 0 and "authentication required" in refused.output
    run([*copy, "--dest-authfile", registry_with_password.docker_config(tmp_path / "docker")])

    certificates = tmp_path / "certs"
    certificates.mkdir()
    assert registry_with_tls.ca_file is not None
    (certificates / "ca.crt").write_bytes(registry_with_tls.ca_file.read_bytes())
    target = f"docker://{registry_with_tls.host}/machines/tiny:1"
    refused = run([skopeo, "copy", "--insecure-policy", f"oci:{layout}:latest", target], check=False)
    assert refused.code != 0 and "certificate" in refused.output
    run([skopeo, "copy", "--insecure-policy", "--dest-cert-dir", certificates, f"oci:{layout}:latest", target])
