"""What is built: sets of distributions with a page each, their versions taken from the index once a run."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from benchmarks.builders import Place
from tests.real.machines.index_front import IndexFront
from tests.real.machines.processes import run

_SERVE = """

if __name__ == "__main__":
    import waitress

    waitress.serve(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
"""

_WEB = (
    '''\
"""Entries of a guest book, as JSON."""

import os

import alembic
import redis
import requests
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
database = SQLAlchemy(app)


class Entry(database.Model):
    number = database.Column(database.Integer, primary_key=True)
    text = database.Column(database.String(80))


@app.get("/")
def entries() -> list[str]:
    database.create_all()
    return [entry.text for entry in Entry.query.all()] + [alembic.__name__, redis.__name__, requests.__name__]
'''
    + _SERVE
)

_DATA = (
    '''\
"""A prediction by a model that is fitted at the start."""

import os

import pandas as pd
from flask import Flask
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

iris = load_iris(as_frame=True)
model = LogisticRegression(max_iter=1000).fit(iris.data, iris.target)
app = Flask(__name__)


@app.get("/")
def predict() -> dict[str, float]:
    chances = model.predict_proba(pd.DataFrame([[5.1, 3.5, 1.4, 0.2]], columns=iris.data.columns))[0]
    return {str(name): float(chance) for name, chance in zip(iris.target_names, chances)}
'''
    + _SERVE
)

_ML = (
    '''\
"""What a small network of random weights says."""

import os

import torch
from flask import Flask
from transformers import BertConfig, BertModel

app = Flask(__name__)
size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
model = BertModel(BertConfig(vocab_size=100, **size))


@app.get("/")
def ask() -> dict[str, list[int]]:
    with torch.no_grad():
        return {"shape": list(model(torch.tensor([[1, 2, 3]])).last_hidden_state.shape)}
'''
    + _SERVE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A project that every builder makes an image of."""

    name: str
    title: str
    python: str
    requirements: tuple[str, ...]
    bumped: str
    """The distribution that goes from the version before to the newest."""
    page: str
    is_large: bool = False
    """Whether it is left to the full form."""


_WEB_SET = (
    "alembic", "flask", "flask-migrate", "flask-sqlalchemy", "gunicorn", "redis", "requests", "sqlalchemy", "waitress",
)  # fmt: skip
_DATA_SET = ("flask", "gunicorn", "matplotlib", "openpyxl", "pandas", "scikit-learn", "waitress")
_ML_SET = (
    "accelerate", "datasets", "fastapi", "flask", "matplotlib", "pandas", "scikit-learn", "sentencepiece",
    "torch==2.13.0+cpu", "transformers", "uvicorn", "waitress",
)  # fmt: skip
_MONSTER_SET = (
    *_WEB_SET, *_DATA_SET, "aiohttp", "altair", "apache-airflow-client", "arrow", "azure-identity",
    "azure-storage-blob", "bokeh", "boto3", "celery", "cryptography", "dask[complete]", "django",
    "djangorestframework", "duckdb", "fastapi", "fsspec", "google-cloud-bigquery", "google-cloud-storage",
    "graphene", "grpcio", "httpx", "ipython", "kubernetes", "lxml", "nltk",
    "networkx", "numba", "opencv-python-headless", "openai", "opentelemetry-sdk", "paramiko", "pillow", "plotly",
    "polars", "prometheus-client", "psycopg2-binary", "pyarrow", "pydantic", "pymongo", "pytest", "pyyaml", "rich",
    "scrapy", "seaborn", "sentry-sdk", "statsmodels", "streamlit", "sympy", "tornado", "twisted", "typer",
    "uvicorn[standard]", "xarray", "xgboost-cpu",
)  # fmt: skip

WEB = Scenario(
    name="web", title="Flask, SQLAlchemy and their kin", python="3.13", requirements=_WEB_SET,
    bumped="sqlalchemy", page=_WEB,
)  # fmt: skip
DATA = Scenario(
    name="data", title="pandas, scikit-learn, matplotlib", python="3.13", requirements=_DATA_SET,
    bumped="pandas", page=_DATA,
)  # fmt: skip
ML = Scenario(
    name="ml", title="torch for CPUs and transformers", python="3.11", requirements=_ML_SET,
    bumped="transformers", page=_ML,
)  # fmt: skip
GPU = Scenario(
    name="gpu", title="torch with its CUDA wheels", python="3.11",
    requirements=("flask", "torch>=2.15", "transformers", "waitress"), bumped="transformers", page=_ML, is_large=True,
)  # fmt: skip
MONSTER = Scenario(
    name="monster", title="a bit of everything", python="3.13", requirements=_MONSTER_SET,
    bumped="pandas", page=_DATA, is_large=True,
)  # fmt: skip
ALL = (WEB, DATA, ML, GPU, MONSTER)
OTHERS = Scenario(
    name="others",
    title="what many projects have besides",
    python="3.13",
    requirements=(
        "aiohttp", "boto3", "cryptography", "django", "grpcio", "httpx", "kubernetes", "lxml", "psycopg2-binary",
        "pydantic", "pytest", "rich", "ruff", "sphinx", "typer", "uvicorn[standard]",
    ),
    bumped="ruff",
    page="",
)  # fmt: skip
"""For the sizes of layers alone."""


def resolve(scenario: Scenario, front: IndexFront, folder: Path, *, before: bool) -> tuple[str, ...]:
    """Every distribution of a scenario as `name==version`, wheels alone.

    :param before: whether the bumped one has the version before its newest; all else is the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = _compile(scenario, front, folder, scenario.requirements)
    if not before:
        return pins
    [newest] = [pin for pin in pins if pin.partition("==")[0] == scenario.bumped]
    others = [pin for pin in pins if pin != newest]
    older = f"{scenario.bumped}<{newest.partition('==')[2]}"
    found = _compile(scenario, front, folder, (*others, older))
    wanted = {pin.partition("==")[0] for pin in pins}
    return tuple(pin for pin in found if pin.partition("==")[0] in wanted)


def _compile(scenario: Scenario, front: IndexFront, folder: Path, requirements: Sequence[str]) -> tuple[str, ...]:
    source = folder / "requirements.in"
    source.write_text("\n".join(requirements) + "\n")
    told = run(
        [
            find_uv_bin(), "pip", "compile", "-q", "--no-config", "--no-header", "--no-annotate",
            "--no-python-downloads", "--only-binary", ":all:", "--python-version", scenario.python,
            "--python-platform", f"{platform.machine()}-manylinux_2_28",
            "--default-index", front.url, "--cache-dir", folder / "uv-cache", source,
        ],
        env={"UV_NO_CONFIG": "1"},
        timeout_seconds=900,
    ).stdout  # fmt: skip
    return tuple(line.strip() for line in told.split("\n") if "==" in line)


PINNED = ("requirements.txt", "pyproject.toml")
"""The files of a project that say which versions it has; a bump changes both."""


def write_project(scenario: Scenario, pins: Sequence[str], folder: Path) -> None:
    """The project's files: page, and the pins twice, as requirements and as a project's dependencies."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(scenario.page)
    (folder / "requirements.txt").write_text("\n".join(pins) + "\n")
    (folder / "pyproject.toml").write_text(pyproject_of(scenario, pins))


def pyproject_of(scenario: Scenario, pins: Sequence[str]) -> str:
    """A project that is no package: it has an app.py to run and nothing to build."""
    dependencies = "".join(f'    "{pin}",\n' for pin in pins)
    return f"""\
[project]
name = "{scenario.name}"
version = "1"
requires-python = "=={scenario.python}.*"
dependencies = [
{dependencies}]

[tool.uv]
environments = ["sys_platform == 'linux' and platform_machine == '{platform.machine()}'"]

[tool.wain]
ports = [8000]
"""


def lock_folder(project: Path, *, layers: bool = False) -> Path:
    """Where the locks of a project are, beside it, so that each builder gets its own alone; made if missing."""
    folder = project.with_name(f"{project.name}-{'layers' if layers else 'plain'}")
    folder.mkdir(exist_ok=True)
    return folder


def uv_lock_project(project: Path, base: str, place: Place) -> None:
    """`uv.lock` of a project, made by uv in a container of the base: with its Python, and for it alone."""
    with tempfile.TemporaryDirectory(dir=project.parent) as name:
        shutil.copy2(project / "pyproject.toml", name)
        options = [
            f"--volume={name}:/app", f"--volume={place.uv_program}:/bin/uv:ro", "--workdir=/app",
            f"--volume={place.folder / 'resolve/uv-cache'}:/root/.cache/uv",
            f"--env=UV_DEFAULT_INDEX={place.front.url}",
        ]  # fmt: skip
        place.docker.run(base, "uv", "lock", "--quiet", options=options, timeout_seconds=900)
        shutil.copy2(Path(name) / "uv.lock", lock_folder(project))


def lock_project(project: Path, front: IndexFront, base: str, store: Path, *, layers: bool) -> None:
    """The `pylock.toml` of a project, with its layers' digests or without."""
    output = lock_folder(project, layers=layers) / "pylock.toml"
    if layers:
        # What the lock says is kept; only the layers are added to it.
        shutil.copy2(lock_folder(project) / "pylock.toml", output)
    run(
        [
            Path(sys.executable).parent / "wain", "lock", project, "-o", output, "--base", base, "-q",
            "--cache-dir", store, *(["--layers"] if layers else []),
        ],
        env=front.pip_env,
        timeout_seconds=1200,
    )  # fmt: skip
