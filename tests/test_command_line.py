"""The front door, `python -m multi_ipadapter`: which command gets what."""

from __future__ import annotations

import subprocess
import sys

import pytest

from multi_ipadapter.__main__ import COMMANDS, main


@pytest.mark.parametrize(
    ("arguments", "got"), [([], "Got no command"), (["tain"], "Got the command 'tain'")]
)
def test_no_command_and_an_unknown_one_are_told(arguments, got, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and got in err and "expected one of train, evaluate" in err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert not err and all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tells_its_own_arguments(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m multi_ipadapter {command} " in capsys.readouterr().out


def test_the_rest_goes_to_the_command(tmp_path, capsys):
    assert main(["train", "checkpoint=demo", f"dataset={tmp_path}"]) == 1
    assert "training: The setting output is missing" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none"), "--metrics", "is"]) == 1
    assert "evaluation: " in capsys.readouterr().err


@pytest.mark.process
def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "multi_ipadapter", "evaluate", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m multi_ipadapter evaluate" in done.stdout
