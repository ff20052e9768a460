ARG BASE
FROM $BASE
WORKDIR /src
COPY <<END pyproject.toml
[project]
name = "made-here"
version = "1"
dependencies = ["six"]
[project.scripts]
made = "made_here:main"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
END
COPY <<END made_here/__init__.py
def main():
    print("made")
END
RUN pip install --no-cache-dir .
