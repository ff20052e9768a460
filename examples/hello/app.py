"""One page, served by waitress."""

import os
import sys

import waitress
from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return f"Hello from Python {sys.version.split()[0]}, straight from wheels.\n"


if __name__ == "__main__":
    waitress.serve(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
