"""Packages built from the checkout install and run in an empty environment; CI and the changelog are consistent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from litellm_openai_example.gateway.environment import find_uv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTRIBUTING = (ROOT / "docs/contributing.md").read_text()


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
    for needed in ("py.typed", "gateway/requirements.txt", "gateway/boot.py", "relay/http/page/run.js"):
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


def test_the_sdist_is_complete(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # A filter is the default from Python 3.14 on, and 3.11 has it from 3.11.4 on.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    (root,) = tmp_path.iterdir()
    for needed in ("uv.lock", "Makefile", "docs/gateway-licences.md", "tests/conftest.py", "LICENSE"):
        assert (root / needed).exists(), needed
    if (ROOT / ".git").exists():  # not in an unpacked sdist itself
        kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        unpacked = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
        assert unpacked - set(kept) == {"PKG-INFO"}
        assert not set(kept) - unpacked
    # The first steps of `make run` in it.
    uv("lock", "--check", "--quiet", cwd=root)
    uv("sync", "--locked", "--dry-run", "--quiet", "--no-default-groups", "--python", sys.executable, cwd=root)


@pytest.mark.skipif(find_spec("ensurepip") is None, reason="needs ensurepip (Debian: python3-venv)")
@pytest.mark.timeout(600)
def test_the_install_lines_of_the_readme_work_with_a_python_that_refuses_pip(tmp_path: Path) -> None:
    """Debian's Python refuses pip outside a virtual environment. The lines run as written, in a checkout."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "litellm_openai_example", tmp_path / "litellm_openai_example")
    block = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    lines = [line for line in block.splitlines() if "[relay]" not in line]  # the same way, with more packages
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG"))}
    env = {**kept, "HOME": str(tmp_path), "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin", "PIP_REQUIRE_VIRTUALENV": "1"}
    typed = "\n".join([*lines, "litellm-example --help"])
    done = subprocess.run(["bash", "-ec", typed], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Usage: litellm-example" in done.stdout


WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/workflows").glob("*.yml")}


def steps(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_runs_the_ci_targets_on_all_pythons() -> None:
    job = WORKFLOWS["test"]["jobs"]["test"]
    stated = [found[1] for one in PROJECT["classifiers"] if (found := re.fullmatch(r".*Python :: (3\.\d+)", one))]
    assert job["strategy"]["matrix"]["python"] == stated
    assert steps(job)[-1] == "bash .ci/run"
    assert "${{ matrix.python }}" in job["container"]["image"]  # as root, on Debian: .ci/run then allows no skips
    assert job["env"]["UV_PYTHON"] == "${{ matrix.python }}"


def test_the_workflows_run_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = {
        line for flow in WORKFLOWS.values() for job in flow["jobs"].values() if "steps" in job for line in steps(job)
    }
    made = {line.removeprefix("make ") for line in run if line.startswith("make ")}
    assert made == {"test-lowest", "test-sdks", "test-frameworks", "site"}
    assert made <= targets


def test_each_job_that_installs_has_a_cache() -> None:
    for name, flow in WORKFLOWS.items():
        for job in flow["jobs"].values():
            used = [step for step in job.get("steps", []) if step.get("uses", "").startswith("astral-sh/setup-uv")]
            cached = [step for step in job.get("steps", []) if step.get("uses", "").startswith("actions/cache")]
            assert all(step["with"]["enable-cache"] is (name != "release") for step in used)
            assert used or cached or "steps" not in job or not any("make" in run or ".ci" in run for run in steps(job))
    paths = next(
        step["with"]["path"] for step in WORKFLOWS["test"]["jobs"]["test"]["steps"] if "cache" in step.get("uses", "")
    )
    assert paths.split() == ["/root/.cache/uv", "/root/.cache/litellm-openai-example"]


def test_macos_and_windows_call_the_fake_gateway() -> None:
    job = WORKFLOWS["test"]["jobs"]["client"]
    assert set(job["strategy"]["matrix"]["system"]) == {"macos-latest", "windows-latest"}
    assert steps(job)[-1].endswith("python -m tests.tools.smoke")
    assert "--no-default-groups" in steps(job)[-1]


def test_the_site_is_built_for_each_change_and_published_from_main() -> None:
    flow = WORKFLOWS["site"]
    assert {"push", "pull_request"} <= flow[True].keys()  # YAML reads `on` as true
    build, publish = flow["jobs"]["build"], flow["jobs"]["publish"]
    assert steps(build) == ["make site"]
    assert build["steps"][-1]["with"]["path"] == "docs/site"
    assert "permissions" not in build
    assert publish["if"] == "github.ref == 'refs/heads/main'"
    assert publish["needs"] == "build"
    assert publish["steps"][-1]["uses"].startswith("actions/deploy-pages@")
    assert "make site" in (ROOT / ".ci/run").read_text()


def test_ci_installs_each_package_that_tests_require() -> None:
    (installed,) = re.findall(
        r"apt-get install .*?--no-install-recommends (.*?) >", (ROOT / ".ci/run").read_text(), re.DOTALL
    )
    named = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"\(Debian: (?:apt-get install )?([\w-]+)\)", file.read_text())
    }
    assert named == set(installed.replace("\\", "").split())
    assert named == set(re.findall(r"[\w-]+", re.findall(r"needs one \(([^)]*)\)", CONTRIBUTING)[0]))


def test_a_release_is_tested_and_published_without_a_stored_secret() -> None:
    flow = WORKFLOWS["release"]
    assert flow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    jobs = flow["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert "workflow_call" in WORKFLOWS["test"][True]
    assert jobs["build"]["needs"] == "test"
    assert jobs["publish"]["needs"] == "build"
    assert [name for name, job in jobs.items() if job.get("permissions", {}).get("id-token")] == ["publish"]
    assert jobs["publish"]["environment"] == "pypi"
    assert steps(jobs["publish"]) == ["uv publish --trusted-publishing always"]
    assert "secrets." not in str(flow)
    for step in ("git tag", "uv build", "trusted publish", "release.yml", "environment `pypi`"):
        assert step in CONTRIBUTING.partition("## A release")[2], step


def test_the_tag_of_a_release_is_compared_with_the_version() -> None:
    (check,) = (run for run in steps(WORKFLOWS["release"]["jobs"]["build"]) if "GITHUB_REF_NAME" in run)
    shell = check.replace("uv version", f"{find_uv()} version")
    for tag, code in ((f"v{PROJECT['version']}", 0), ("v9.9.9", 1), (PROJECT["version"], 1)):
        env = {**os.environ, "GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-c", shell], cwd=ROOT, env=env, timeout=60).returncode == code


def test_the_changelog_and_the_tags_agree_on_the_release() -> None:
    if not (ROOT / ".git").exists():
        return  # an sdist has no tags
    tags = subprocess.run(["git", "tag"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    head = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]")[0]
    assert ("Nothing is released yet" in head) == (f"v{PROJECT['version']}" not in tags)


def test_changelog_entries_are_unique() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = [re.findall(r"\w+", entry)[:8] for entry in re.split(r"^\* ", text, flags=re.MULTILINE)[1:]]
    assert [entry for number, entry in enumerate(entries) if entry in entries[:number]] == []


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert entries[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d", entries[1])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
    for program in PROJECT["scripts"]:
        assert f"`{program}" in text
