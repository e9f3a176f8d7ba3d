"""Owns the tests of the package: its wheel in an empty environment, the example of its README, and its types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pilotlight
from broker import Broker

HOME = Path(__file__).parents[1]
QUIET = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(), re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the build system that is installed already."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(HOME)]
    subprocess.run(command, check=True, env=QUIET)
    (path,) = folder.glob("pilotlight-*-py3-none-any.whl")
    return path


def test_the_wheel_has_types_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "pilotlight/py.typed" in names
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE-APACHE", "LICENSE-MIT"}
    assert not [name for name in names if "test" in name]


def test_the_readmes_example_runs_in_an_empty_environment(wheel: Path, tmp_path: Path, brokers: Callable[..., Broker]) -> None:
    broker = brokers()
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet", wheel], check=True, env=QUIET)
    code = example()
    assert code.count("http://127.0.0.1:7070") == 1
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://127.0.0.1:7070", broker.url))
    # Isolated, nothing but the wheel can be imported.
    done = subprocess.run([python, "-I", script], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("warm and ready 200\n", "", 0)


def test_the_versions_agree() -> None:
    assert f'\nversion = "{pilotlight.__version__}"\n' in (HOME / "pyproject.toml").read_text()


def test_the_types_are_complete() -> None:
    command = [sys.executable, "-m", "mypy", "src", "tests"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
