"""Unit tests see nothing of how the machine they run on is configured: they talk to loopback alone."""

from __future__ import annotations

import os

import pytest

_PREFIXES = ("PIP_", "UV_", "WAIN_", "DOCKER_", "SOURCE_DATE_EPOCH")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and no setting of pip, uv, docker or wain."""
    for name in tuple(os.environ):
        if name.startswith(_PREFIXES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
