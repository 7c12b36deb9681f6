"""The command line: one module per command, each of which runs the stages."""

__version__ = "0.1.0"
