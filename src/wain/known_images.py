"""What is known of widely used base images without reading them: users, homes, environment, shell family.

Only what their documentation promises stands here; an image that is not in the table has root in /root and nothing set.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field


class KnownImage(Struct, frozen=True, kw_only=True):
    """`user` None is root; `users` are name -> (uid, home); `bash` is whether /bin/sh is bash."""

    user: str | None = None
    users: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    bash: bool = False
    workdir: str = "/"
    python: bool = False
    cuda: bool = False


_PLAIN = KnownImage()
_JUPYTER = KnownImage(
    user="jovyan",
    users={"jovyan": ("1000", "/home/jovyan")},
    env={"CONDA_DIR": "/opt/conda", "NB_USER": "jovyan", "NB_UID": "1000", "HOME": "/home/jovyan"},
    workdir="/home/jovyan",
    python=True,
)
_CONDA = KnownImage(env={"CONDA_DIR": "/opt/conda"}, python=True)
_TABLE: dict[str, KnownImage] = {
    "python": KnownImage(python=True),
    "node": KnownImage(users={"node": ("1000", "/home/node")}),
    "mambaorg/micromamba": KnownImage(
        user="mambauser",
        users={"mambauser": ("57439", "/home/mambauser")},
        env={"MAMBA_ROOT_PREFIX": "/opt/conda"},
    ),
    "continuumio/miniconda3": _CONDA,
    "continuumio/anaconda3": _CONDA,
    "condaforge/miniforge3": _CONDA,
    "condaforge/mambaforge": _CONDA,
    "apache/airflow": KnownImage(
        user="airflow", users={"airflow": ("50000", "/home/airflow")}, workdir="/opt/airflow", python=True
    ),
    "nvidia/cuda": KnownImage(cuda=True),
    "pytorch/pytorch": KnownImage(cuda=True, python=True),
    "tensorflow/tensorflow": KnownImage(python=True),
    "fedora": KnownImage(bash=True),
    "centos": KnownImage(bash=True),
    "rockylinux": KnownImage(bash=True),
    "almalinux": KnownImage(bash=True),
    "amazonlinux": KnownImage(bash=True),
    "oraclelinux": KnownImage(bash=True),
    "archlinux": KnownImage(bash=True),
}


def repository(image: str) -> str:
    """An image's repository without registry, tag and digest: docker.io/library/python:3 is python."""
    name = image.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    tail = tail.partition(":")[0]
    name = f"{head}{slash}{tail}"
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        name = rest
    return name.removeprefix("library/")


def known_image(image: str | None) -> KnownImage:
    """What is known of an image by its name."""
    if not image:
        return _PLAIN
    name = repository(image)
    found = _TABLE.get(name)
    if found is not None:
        return found
    if name.startswith(("jupyter/", "pangeo/")) and "docker-stacks" not in name:
        return _JUPYTER if name.startswith("jupyter/") else _PLAIN
    if name.startswith(("ubi8", "ubi9", "rhel")) or "/ubi" in name or "registry.access.redhat.com" in image:
        return KnownImage(bash=True)
    if "cuda" in name or name.startswith("nvidia/"):
        return KnownImage(cuda=True)
    return _PLAIN
