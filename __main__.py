"""The command line: `python -m multi_ipadapter train | evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

PROGRAM = "python -m multi_ipadapter"
HELP = """\
usage: python -m multi_ipadapter COMMAND [arguments ...]

commands (each tells its arguments with --help):
  train     train an adapter on pictures of many identities
  evaluate  measure generated pictures
"""


def train(arguments: list[str]) -> int:
    """As `python -m multi_ipadapter.training`."""
    from .training.__main__ import train
    from .training.command import main

    return main(train, arguments, f"{PROGRAM} train")


def evaluate(arguments: list[str]) -> int:
    """As `python -m multi_ipadapter.evaluation`."""
    from .evaluation.command import main

    return main(arguments, f"{PROGRAM} evaluate")


COMMANDS: dict[str, Callable[[list[str]], int]] = {"train": train, "evaluate": evaluate}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to the command; 2 for none or an unknown one."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command in COMMANDS:
        return COMMANDS[command](rest)
    if command in ("-h", "--help"):
        print(HELP, end="")
        return 0
    got = f"Got the command {command!r}" if command else "Got no command"
    print(f"{got}; expected one of {', '.join(COMMANDS)}.\n\n{HELP}", end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
