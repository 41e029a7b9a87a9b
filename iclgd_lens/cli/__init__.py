"""The command line `iclgd`: one module per command, and the console that all of them share."""

from iclgd_lens.cli.app import main as main
