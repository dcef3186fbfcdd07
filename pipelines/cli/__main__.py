"""`python -m pipelines.cli`: the command line where the console script is not installed."""

from pipelines.cli.app import main

main()
