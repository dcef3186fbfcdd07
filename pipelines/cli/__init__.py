"""The command line: one module per group of commands, each importing what it needs when called."""

from pipelines.cli.app import main

__all__ = ["main"]
