"""The code blocks of README and docs, run from top to bottom as a reader would.

A page's blocks share one folder, in which `examples/` and `recipes/` of the repository lie. A block
that can't run here says why in a comment before it: `<!-- not run: reason -->`.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest
from markdown_it import MarkdownIt

from tests.helpers import ROOT

NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*$")
PAGES = sorted(
    p for p in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if "```" in p.read_text("utf-8")
)
HEAVY = {"README.md", "tutorial.md", "evidence.md", "images.md", "train.md"}
"""Pages whose blocks take long: run with the slow tests."""


@dataclass
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    run: bool


def blocks_of(page):
    """The fenced blocks of a page, also those inside tabs (indented)."""
    lines = page.read_text("utf-8").splitlines()
    flat = "\n".join(
        line.removeprefix("    ") if tabbed else line for line, tabbed in in_tabs(lines)
    )
    text = flat.splitlines()
    tokens = [t for t in MarkdownIt().parse(flat) if t.type == "fence"]
    for token in tokens:
        start = token.map[0]
        before = next((line for line in reversed(text[:start]) if line.strip()), "")
        yield Block(token.info.split(" ")[0], token.content, start + 1, not NOT_RUN.match(before))


def in_tabs(lines):
    """Each line, and whether it is the indented content of a tab (`=== "title"`)."""
    tabbed = False
    for line in lines:
        if line.startswith("=== "):
            tabbed = True
        elif line.strip() and not line.startswith("    "):
            tabbed = False
        yield line, tabbed and line.startswith("    ")


def run(block, folder):
    """Run a block in a folder; one that begins with `# NAME.yaml` or `# NAME.py` is written."""
    name = re.match(r"# ([\w.-]+\.(?:yaml|py))", block.text)
    if name:
        (folder / name[1]).write_text(block.text, "utf-8")
        return
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    elif block.language == "bash":
        tool = f"{shlex.quote(sys.executable)} -m pipelines.cli"
        script = f'set -e\nprefactory() {{ {tool} "$@"; }}\n{block.text}'
        command = ["bash", "-c", script]
    else:
        return
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PREFACTORY_HOME": ".prefactory"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout}\n{done.stderr}"


def marked(page):
    slow = [pytest.mark.slow, pytest.mark.timeout(900)] if page.name in HEAVY else []
    return pytest.param(page, marks=slow, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [marked(p) for p in PAGES])
def test_the_code_blocks_of_a_page_run(page, tmp_path):
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in blocks_of(page):
        if block.run:
            run(block, tmp_path)


def test_a_block_that_fails_is_seen(tmp_path):
    with pytest.raises(AssertionError, match="line 3"):
        run(Block("bash", "false\n", 3, True), tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(Block("python", "1 / 0\n", 3, True), tmp_path)


def test_blocks_in_tabs_and_marks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '=== "YAML"\n\n    ```yaml\n    # a.yaml\n    x: 1\n    ```\n\n'
        '=== "Python"\n\n    ```python\n    1 + 1\n    ```\n\n'
        "<!-- not run: no server -->\n```bash\nfalse\n```\n"
    )
    found = list(blocks_of(page))
    assert [(b.language, b.run) for b in found] == [
        ("yaml", True),
        ("python", True),
        ("bash", False),
    ]
    assert found[0].text == "# a.yaml\nx: 1\n"
