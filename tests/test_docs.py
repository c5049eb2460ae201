"""The README and the pages under docs/: every example runs, every link leads somewhere, every public name is described."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

import sparsolve as sps
from sparsolve import registration

ROOT = Path(__file__).parent.parent
PAGES = {p.relative_to(ROOT).as_posix(): p for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TESTS = "-m pytest -n auto"
SEPARATE = {"docs/recipes.md"}  # pages whose sections stand alone
each_page = pytest.mark.parametrize("page", PAGES)


class Block(NamedTuple):
    """A fenced block: its language, the line after its fence, its text, and whether it directly follows the one before."""

    language: str
    line: int
    text: str
    follows: bool


def read(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    found, end = [], 0
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        between = text[end : match.start()]
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(match[1], line, match[2], bool(found) and not between.strip()))
        end = match.end()
    return found


def run(block: Block, page: str, names: dict[str, Any]) -> str:
    """Execute a block with its line numbers as in the page; what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, str(PAGES[page]), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@each_page
def test_examples(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace (recipes: one for each); what is printed is in the ```text block that follows."""
    torch.compiler.reset()
    text = read(page)
    starts = (
        [text.count("\n", 0, m.start()) for m in re.finditer("^## ", text, re.MULTILINE)] if page in SEPARATE else []
    )
    section, names, printed = -1, {}, None
    for block in blocks(text):
        here = sum(line < block.line for line in starts)
        if here != section:
            module = ModuleType(f"page_{here}_" + re.sub(r"\W", "_", page))
            monkeypatch.setitem(sys.modules, module.__name__, module)  # where Dynamo looks up a function's globals
            section, names = here, vars(module)
        if block.language == "python":
            printed = run(block, page, names)
        elif block.language == "text" and block.follows and printed is not None:
            assert words(printed) == words(block.text), f"{page}:{block.line} is not what the block before it prints"
            printed = None


@each_page
def test_examples_can_fail(page: str) -> None:
    """A block asserts something, or what it prints is compared."""
    listed = blocks(read(page))
    for i, block in enumerate(listed):
        if block.language != "python":
            continue
        compared = "print(" in block.text and any(b.language == "text" and b.follows for b in listed[i + 1 : i + 2])
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(block.text)))
        assert asserts or compared, f"{page}:{block.line} cannot fail"


@each_page
def test_fences_are_closed_and_named(page: str) -> None:
    text = read(page)
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(text))
    assert {b.language for b in blocks(text)} <= {"python", "bash", "text"}


def anchors(text: str) -> set[str]:
    """The fragments that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links(page: str) -> None:
    """Relative ones: the file is there, and the heading in it."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{page} links to {target}"
        assert there.is_relative_to(ROOT), f"{page} links outside: {target}"
        assert not fragment or fragment in anchors(there.read_text(encoding="utf-8")), f"{page} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = read("docs/index.md")
    missing = [p for p in PAGES if p.startswith("docs/") and p != "docs/index.md" and f"({Path(p).name}" not in index]
    assert not missing


@pytest.mark.parametrize("name", sorted(sps.__all__))
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`(sps\.)?{name}\b", read("docs/api.md"))


def test_no_other_names_are_promised() -> None:
    """`sps.something` anywhere in the pages is public."""
    for page in PAGES:
        used = set(re.findall(r"\bsps\.(\w+)", read(page)))
        assert used <= set(sps.__all__), f"{page}: {sorted(used - set(sps.__all__))}"


def test_every_source_file_has_its_line() -> None:
    """In the table of layers."""
    source = ROOT / "src" / "sparsolve"
    files = {p.relative_to(source).as_posix() for p in source.rglob("*.py")}
    page = read("docs/architecture.md")
    assert not [f for f in files if f"`{f}`" not in page and f"`{Path(f).name}`" not in page]


def test_private_names_are_listed() -> None:
    """Those that registration.py takes from torch, in the table that says what each is for."""
    source = inspect.getsource(registration)
    private = set(re.findall(r"^from torch.* import (_\w+)", source, re.MULTILINE))
    private |= set(re.findall(r"\bforward_ad\.(_\w+)", source))
    assert private
    assert not [name for name in private if f"{name}` |" not in read("docs/registration.md")]


def test_the_two_commands() -> None:
    """Install and run the example; run the tests. The second is the one that continuous integration runs."""
    (block,) = (b for b in blocks(read("README.md")) if b.language == "bash")
    install, tests = block.text.replace("\\\n", " ").splitlines()
    assert all(part in install for part in ("-m venv", "-c constraints.txt", "examples/recover_field.py"))
    assert tests.endswith(TESTS)
    assert (ROOT / "constraints.txt").exists()
    assert (ROOT / "examples" / "recover_field.py").exists()
    script = ROOT / ".ci" / "run"
    if script.exists():
        assert TESTS in script.read_text(encoding="utf-8")


def test_the_source_distribution_has_what_is_read_here() -> None:
    (included,) = re.findall(r"sdist\]\ninclude = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = (
        "src",
        "tests",
        "examples",
        "benchmarks",
        "docs",
        "constraints.txt",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    )
    assert included == ", ".join(f'"{what}"' for what in wanted)


def test_the_changelog_has_this_version() -> None:
    assert f"## {sps.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def cells(text: str, name: str) -> list[str]:
    """Of the first row of a table that begins with this name."""
    (first, *_) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in first.strip("|").split("|")]


def test_the_table_of_speeds() -> None:
    """In the README, taken from the page of all figures; what is called up to so many times is the largest there."""
    page, readme = read("docs/benchmarks.md"), read("README.md")
    classes, optional, peers = (
        page[page.index(h) :] for h in ("## Matrix classes", "### With optional", "## Other packages")
    )
    table = readme[readme.index("## How fast") :]
    names = re.findall(r"^\| ([^|]+) \| [\d ]+ \| [\d.]+ \|", table, re.MULTILINE)
    assert len(names) == 6
    for name in names:
        _, n, ours, by_hand, *others = cells(table, name)
        peer = cells(peers, name)
        assert [n, ours, *others] == [*peer[1:6], peer[7]]
        assert float(by_hand) == pytest.approx(1 / float(cells(classes, name)[6]), rel=0.05)
    over = re.search(r"LAPACK by hand is ([\d.]+) to ([\d.]+) times", table)
    assert over
    assert [float(cells(classes, name)[6]) for name in ("banded", "tridiagonal")] == pytest.approx(
        [float(g) for g in over.groups()], abs=0.051
    )
    best = re.search(r"PARDISO is up to\s+(\d+) times", table)
    assert best
    assert 1 / float(cells(optional, "Poisson 3-D, large")[6]) == pytest.approx(float(best[1]), rel=0.05)
