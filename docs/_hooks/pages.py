"""The pages of the site that are made from the code: steps and command line."""

from __future__ import annotations

import html
import importlib
from collections import defaultdict
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.core import TyperCommand

from pipelines.cli.app import app
from pipelines.steps import KINDS, StepField, StepPage, describe, step_classes

ROOT = Path(__file__).parents[2]
LONG = 60
"""Defaults that are longer stand in the docstring only."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the steps into the navigation, package by package."""
    names = sorted(step_classes())
    packages = [
        {package.capitalize(): [f"steps/{n}.md" for n in names if n.startswith(f"{package}.")]}
        for package in KINDS
    ]
    for section in config.nav or []:
        if section.get("Steps") == "steps/index.md":
            section["Steps"] = ["steps/index.md", *packages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {describe(cls).name: describe(cls) for cls in step_classes().values()}
    texts = {f"steps/{name}.md": step_text(page) for name, page in pages.items()}
    texts["steps/index.md"] = index_text(pages)
    texts["reference/cli.md"] = cli_text()
    texts["changelog.md"] = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    return files


def index_text(pages: dict[str, StepPage]) -> str:
    """All steps by package and room."""
    classes = step_classes()
    parts = [
        "# Steps\n\nEvery step that comes with prefactory, made from its own documentation. "
        "`prefactory steps` shows the same in a terminal. Steps that ask a model take any "
        "[text engine](../engines.md). Your own: [writing a step](../writing-a-step.md).\n"
    ]
    for package, kind in KINDS.items():
        rooms: dict[str, list[StepPage]] = defaultdict(list)
        for name, page in pages.items():
            if name.startswith(f"{package}."):
                rooms[classes[name].__module__.rsplit(".", 1)[0]].append(page)
        parts.append(f"## {package.capitalize()}: {kind}\n")
        for room in sorted(rooms, key=lambda module: (module.count("."), module)):
            about = (importlib.import_module(room).__doc__ or "").split("\n\n")[0]
            about = "" if room == package else f"### {' '.join(about.split())}\n"
            rows = "\n".join(
                f"| [`{p.name}`]({p.name}.md) | {cell(p.summary)} |" for p in rooms[room]
            )
            parts.append(f"{about}\n| step | what it does |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def step_text(page: StepPage) -> str:
    """The page of one step."""
    papers = ", ".join(f"[arXiv:{p}](https://arxiv.org/abs/{p})" for p in page.papers)
    facts = [
        f"A **{page.kind}** on {', '.join(page.shapes)}; scope `{page.scope}`.",
        f"Source: {papers}." if papers else "",
    ]
    parts = [f"# {page.name}\n\n{page.summary}\n\n{' '.join(facts).strip()}\n"]
    parts.append(f"```yaml\nsteps:\n{indented(page.example)}```\n")
    parts.append(page.text + "\n")
    if page.fields:
        rows = "\n".join(field_row(f) for f in page.fields)
        parts.append(
            f"## Fields\n\n| field | takes | default | what it is |\n|---|---|---|---|\n{rows}\n"
        )
    columns = {"It reads, with the example's fields": page.reads, "It adds": page.adds}
    told = [f"{title}: {', '.join(f'`{c}`' for c in cs)}." for title, cs in columns.items() if cs]
    if told:
        parts.append("## Columns\n\n" + "\n\n".join(told) + "\n")
    return "\n".join(parts)


def field_row(field: StepField) -> str:
    """One field as a row of a table."""
    default = "required" if field.default is None else f"`{field.default}`"
    if field.default and len(field.default) > LONG:
        default = "a list of its own" if field.default.startswith("[") else "see the source"
    takes = f"{field.type} {html.escape(field.limits)}".strip()
    return f"| `{field.name}` | {cell(takes)} | {cell(default)} | {cell(field.text)} |"


def cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", "\\|")


def indented(text: str) -> str:
    """Lines two further to the right."""
    return "".join(f"  {line}\n" for line in text.splitlines())


def cli_text() -> str:
    """The command line, command by command."""
    root = typer.main.get_command(app)
    parts = [
        "# Command line\n\nExit codes: 0 done, 1 a gate failed, 2 wrong input or usage, 3 stopped "
        "and resumable.\n"
    ]
    parts += [command_text(name, command) for name, command in commands(root, "prefactory")]
    return "\n".join(parts)


def commands(group: TyperCommand, name: str) -> list[tuple[str, TyperCommand]]:
    """Commands of a group and of the groups in it, by their whole name."""
    inner = getattr(group, "commands", None)
    if not inner:
        return [(name, group)]
    return [pair for key in sorted(inner) for pair in commands(inner[key], f"{name} {key}")]


def command_text(name: str, command: TyperCommand) -> str:
    """One command: what it does and its parameters."""
    rows = []
    for param in command.params:
        words = (
            param.opts
            if param.param_type_name == "option"
            else [param.metavar or (param.name or "").upper()]
        )
        told = getattr(param, "help", None) or ""
        default = (
            "" if param.default in (None, False, ()) or callable(param.default) else param.default
        )
        names = ", ".join(f"`{word}`" for word in [*words, *param.secondary_opts])
        rows.append(f"| {names} | {cell(html.escape(told))} | {cell(str(default))} |")
    table = "\n| | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    return f"## {name}\n\n{command.help or ''}\n{table}"
