"""What is built from the checkout installs and runs where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from litellm_openai_example.gateway.environment import find_uv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def uv(*arguments: str | Path, cwd: Path = ROOT) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    done = subprocess.run([find_uv(), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--out-dir", folder)
    return folder


@pytest.mark.timeout(600)
def test_the_wheel_runs_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "gateway/requirements.txt", "gateway/boot.py"):
        assert f"litellm_openai_example/{needed}" in names
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    uv("pip", "install", "--quiet", "--python", tmp_path / "venv/bin/python", wheel)
    for command in (["litellm-example", "--help"], ["python", "-m", "litellm_openai_example.gateway", "--help"]):
        done = subprocess.run(
            [tmp_path / "venv/bin" / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Usage: ")
        assert done.stderr == ""


def test_the_sdist_is_whole(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    for needed in ("uv.lock", "Makefile", "docs/gateway-licences.md", "tests/conftest.py", "LICENSE"):
        assert (root / needed).exists(), needed
    if (ROOT / ".git").exists():  # not in an unpacked sdist itself
        kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        unpacked = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
        assert unpacked - set(kept) == {"PKG-INFO"}
        assert not set(kept) - unpacked
    # What `make run` does first in it.
    uv("lock", "--check", "--quiet", cwd=root)
    uv("sync", "--locked", "--dry-run", "--quiet", "--no-default-groups", "--python", sys.executable, cwd=root)


def test_the_workflow_runs_what_the_makefile_has_on_all_pythons() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    stated = [found[1] for one in PROJECT["classifiers"] if (found := re.fullmatch(r".*Python :: (3\.\d+)", one))]
    assert versions == stated
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert (
        {one.removeprefix("make ") for one in run if one.startswith("make ")}
        == {"test", "test-lowest", "test-sdks"}
        <= targets
    )
    weekly = yaml.safe_load((ROOT / ".github/workflows/frameworks.yml").read_text())
    assert weekly["jobs"]["frameworks"]["steps"][-1] == {"run": "make test-frameworks"}
    assert "test-frameworks" in targets


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert entries[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d", entries[1])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
    for program in PROJECT["scripts"]:
        assert f"`{program}" in text
