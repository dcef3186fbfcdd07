"""The `prefactory` command: its groups, its exit codes, and how errors are shown."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.cli import audit as audit_commands
from pipelines.cli import budgets as budget_commands
from pipelines.cli import catalog as catalog_commands
from pipelines.cli import compare as compare_commands
from pipelines.cli import data as data_commands
from pipelines.cli import deploy as deploy_commands
from pipelines.cli import dialogues as dialogue_commands
from pipelines.cli import examples as examples_commands
from pipelines.cli import explain as explain_commands
from pipelines.cli import history as history_commands
from pipelines.cli import journal as journal_commands
from pipelines.cli import preview as preview_commands
from pipelines.cli import run as run_commands
from pipelines.cli import steps as steps_commands
from pipelines.cli import tree as tree_commands
from pipelines.cli import values as values_commands
from pipelines.cli import wins as wins_commands
from pipelines.cli import worth as worth_commands
from pipelines.cli.people import review as review_commands
from pipelines.cli.people import serve as serve_commands
from pipelines.cli.people import votes as votes_commands
from pipelines.cli.training import encoders as encoder_commands
from pipelines.cli.training import evaluate as evaluate_commands
from pipelines.cli.training import merge as merge_commands
from pipelines.cli.training import train as train_commands
from pipelines.conduct.stopping import end
from pipelines.terminal import guard

PACKAGES = (
    "prefactory", "catalog", "generators", "filters", "labelers", "trainers", "audit",
    "review", "pipelines",
)  # fmt: skip

app = typer.Typer(
    name="prefactory",
    help="The factory for preference data: curate, label, publish and train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # Rich markup would take what stands in brackets for a style
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"prefactory {version('prefactory')}")
        raise typer.Exit


@app.callback()
def settings(
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of store, versions and models [PREFACTORY_HOME or .prefactory]."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The factory for preference data: curate, label, publish and train."""
    if home is not None:
        os.environ["PREFACTORY_HOME"] = str(home)
    quiet_environment(verbose)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for package in PACKAGES:  # modules log under their own names
        logging.getLogger(package).setLevel(logging.INFO)


def quiet_environment(verbose: bool) -> None:
    """Switch off telemetry and, unless asked for, the logs of libraries; set before imports."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # it outlives a run; ours does not
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin take thrice the CPU on a busy machine
    }
    if not verbose:
        defaults |= {
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",  # the database pool of a stopping server
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
            "TRANSFORMERS_VERBOSITY": "error",
        }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


run_commands.register(app)
deploy_commands.register(app)
preview_commands.register(app)
journal_commands.register(app)
budget_commands.register(app)
data_commands.register(app)
dialogue_commands.register(app)
audit_commands.register(app)
history_commands.register(catalog_commands.register(app))
explain_commands.register(app)
review_commands.register(app)
serve_commands.register(app)
worth_commands.register(app)
compare_commands.register(app)
examples_commands.register(app)
train_commands.register(app)
evaluate_commands.register(app)
merge_commands.register(app)
encoder_commands.register(app)
tree_commands.register(app)
values_commands.register(app)
votes_commands.register(app)
wins_commands.register(app)
steps_commands.register(app)


def main() -> None:
    """Run the command line; a user's mistake is a message and an exit code, not a traceback."""
    guard()
    signal.signal(signal.SIGTERM, end)
    try:
        app(standalone_mode=True)
    except Exception as error:
        from prefactory.errors import PrefactoryError, exit_code
        from prefactory.extras import missing

        if not isinstance(error, PrefactoryError):
            error = missing(error) or error
        code = exit_code(error)
        if code is None:
            raise
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        if error.__cause__ is not None and {"--verbose", "-v"} & set(sys.argv):
            trace = traceback.format_exception(error.__cause__)
            console.print("".join(trace), markup=False)
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False)
        sys.exit(code)
