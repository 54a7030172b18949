"""Which of several processes does a piece of work: files that only one of them can create."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

STALE_SECONDS = 600.0  # without a sign of life; longer than one batch takes to encode
NAMELESS_SECONDS = 5.0  # for a claim whose owner was killed before it had written its name


class Claim:
    """A piece of work that is ours until `with` ends.

    A claim taken over by mistake (its owner slept for long) does no harm here: both then do the
    same work, and each result replaces the other whole.
    """

    def __init__(self, path: Path, token: str):
        self._path, self._token = path, token

    def renew(self) -> None:
        """Show that the work goes on."""
        with suppress(OSError):  # taken over
            os.utime(self._path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        owner = _owner(self._path)
        if owner and owner.get("token") == self._token:
            self._path.unlink(missing_ok=True)


def take(path: Path) -> Claim | None:
    """Claim a piece of work; None: a living process has it."""
    remove_stale(path)
    token = uuid.uuid4().hex
    try:
        with path.open("x") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid(), "token": token}, file)
    except FileExistsError:
        return None
    return Claim(path, token)


def remove_stale(path: Path) -> None:
    """Remove a claim whose owner is gone; a young or living one stays."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return
    owner = _owner(path)
    if age < (STALE_SECONDS if owner else NAMELESS_SECONDS) and not _is_dead(owner):
        return
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with suppress(OSError):
        os.rename(path, aside)  # only one of several processes succeeds
        aside.unlink()


def _owner(path: Path) -> dict | None:
    """None while the owner is still writing its name."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _is_dead(owner: dict | None) -> bool:
    """Whether the owner was a process of this machine that is gone.

    On Windows, where signal 0 would end the process, only the age counts.
    """
    if os.name == "nt" or not owner or owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError):
        return False
    return False
