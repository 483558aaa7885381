"""The site of docs/: its pages, its reference, and its build, which fails for each kind of mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import litellm_openai_example
from litellm_openai_example import ErrorKind

from ..tools.docs.blocks import DOCUMENTS, ROOT
from ..tools.docs.site import broken_links

DOCS = ROOT / "docs"
CONFIG = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]
PYTHON = ROOT / ".venv-site/bin/python"
LONG = {"README.ko.md": 280}  # the manual's reader finds it on one page


def _pages(nav: list[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, list):
                yield from _pages(target)
            else:
                yield str(target)


def test_the_navigation_has_each_page_once() -> None:
    pages = list(_pages(CONFIG["nav"]))
    assert sorted(pages) == sorted(path.relative_to(DOCS).as_posix() for path in DOCUMENTS if DOCS in path.parents)


def test_each_language_has_a_first_page() -> None:
    starts = {language["lang"]: language["link"] for language in CONFIG["extra"]["alternate"]}
    assert starts == {"en": "./", "ko": "./README.ko/"}


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_guide_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONG.get(path.name, 150)


def test_the_reference_has_each_public_name_once() -> None:
    found = [name for path in DOCS.glob("api/*.md") for name in re.findall(r"^::: (\S+)$", path.read_text(), re.M)]
    assert len(found) == len(set(found))
    package = f"{litellm_openai_example.__name__}."
    assert {package + name for name in litellm_openai_example.__all__} <= set(found)


def test_each_kind_of_error_is_described() -> None:
    described = re.findall(r"^ +([A-Z_]+): ", ErrorKind.__doc__ or "", re.M)
    assert described == [kind.name for kind in ErrorKind]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the documents and the package, for `build`."""
    if not PYTHON.exists():
        pytest.skip("`make site` installs the tools that build the site")
    ignored = shutil.ignore_patterns("site", ".cache", "__pycache__")
    for folder in ("docs", "litellm_openai_example"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "tests/tools/docs/site.py"
    return subprocess.run([PYTHON, program], cwd=folder, capture_output=True, text=True, timeout=250)


def test_the_site_is_built_without_a_warning(copy: Path) -> None:
    built = build(copy)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(copy / "docs/site").as_posix(): path.read_text() for path in copy.rglob("site/**/*.html")}
    assert '<html lang="en"' in pages["index.html"]
    assert '<html lang="ko"' in pages["README.ko/index.html"]
    assert 'id="litellm_openai_example.LiteLLMClient.respond"' in pages["api/client/index.html"]
    assert not [name for name in pages if re.search(r'(src|href)="(https?:)?//[^"]*\.(js|css)', pages[name])]
    assert '<h2 id="설치">' in pages["README.ko/index.html"]
    raw = re.compile(r"```|\|---|<p>[*-] |\n[*] \S")  # fences, tables and lists that were not read as such
    assert not [name for name, page in pages.items() if raw.search(re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL))]
    index = (copy / "docs/site/search.json").read_text()
    assert "한 번 시작한 조사는" in index
    assert "create_response_with_tool_calling" in index
    assert "zensical.toml" not in {path.name for path in copy.rglob("site/**/*")}


def test_each_wrong_link_and_reference_fails_the_build(copy: Path) -> None:
    mistakes = {
        "[a page](missing.md)": "page does not exist",
        "[a heading](cli.md#missing)": "anchor does not exist",
        "[a reference][missing]": "unresolved link reference",
        "[a name][litellm_openai_example.Missing]": "unresolved autoref",
    }
    with (copy / "docs/index.md").open("a") as document:
        document.write("".join(f"\n\n{mistake}" for mistake in mistakes))
    built = build(copy)
    assert built.returncode == 1
    assert [said for said in mistakes.values() if said not in built.stderr] == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("docs/api/client.md", "::: litellm_openai_example.Missing\n", "litellm_openai_example.Missing"),
        (
            "litellm_openai_example/attachments.py",
            'def file_part(path):\n    """Return.\n\n    Args:\n        missing: an argument.\n    """\n',
            "does not appear in the function signature",
        ),
    ],
)
def test_a_mistake_in_the_reference_fails_the_build(copy: Path, file: str, text: str, message: str) -> None:
    with (copy / file).open("a") as document:
        document.write(f"\n\n{text}")
    built = build(copy)
    assert built.returncode == 1
    assert message in built.stderr


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("picture.svg", False),
        ("picture.svg?raw=1#part", False),
        ("../picture.svg", True),
        ("folder/", False),
        ("empty", True),
        ("missing.yaml", True),
        ("/picture.svg", True),  # the site may be published below a path
        ("#heading", False),
        ("https://example.org/missing", False),
        ("mailto:somebody@example.org", False),
        ("data:image/png;base64,AA==", False),
        ("%ED%95%9C.svg", False),
    ],
)
@pytest.mark.parametrize("tag", ['<a href="{}">', '<img alt="" src="{}"/>'])
def test_links_to_missing_files_are_found(tmp_path: Path, tag: str, link: str, broken: bool) -> None:
    for name in ("picture.svg", "한.svg", "folder/index.html", "empty/picture.svg"):
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "picture.svg").write_text("")  # beside the site
    (tmp_path / "site/page.html").write_text(tag.format(link))
    assert bool(list(broken_links(tmp_path / "site"))) is broken
