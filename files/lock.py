"""One process at a time works in a folder; the system lets the lock go when that process dies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

_BUSY = (PermissionError, BlockingIOError)  # as Windows and POSIX say it


def take_lock(path: Path) -> BinaryIO | None:
    """The open file that holds the lock until it is closed; None: another process holds it.

    Where the file system knows no locks, it is given to everybody.
    """
    file = path.open("ab")
    try:
        _lock(file)
    except _BUSY:
        file.close()
        return None
    except OSError:
        pass
    return file


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
