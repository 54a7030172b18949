"""What costs seconds is marked, so that `python dev.py test --quick` can leave it out.

The marks `server` and `browser` come from the fixtures that a test uses; `process` and `slow` stand
in the modules.
"""

from __future__ import annotations

import sys

import pytest

MARKS = {
    "server": "needs a running ComfyUI",
    "browser": "needs ComfyUI's front end in a browser",
    "process": "starts another Python",
    "slow": "computes for seconds",
}
FIXTURES = {"server": "server", "clean": "server", "front_end": "browser"}  # -> mark

_now: pytest.Item | None = None  # the test that runs


def pytest_addoption(parser):
    marks = ", ".join(MARKS)
    parser.addoption("--quick", action="store_true", help=f"leave out what is marked {marks}")


def pytest_configure(config):
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")


def pytest_collection_modifyitems(config, items):
    """Mark by fixtures; under `--quick`, leave out what is marked."""
    for item in items:
        for mark in {FIXTURES[name] for name in item.fixturenames if name in FIXTURES}:
            item.add_marker(mark)
    if config.option.quick:
        config.hook.pytest_deselected(items=[item for item in items if is_costly(item)])
        items[:] = [item for item in items if not is_costly(item)]


def is_costly(item: pytest.Item) -> bool:
    """Whether a test has one of the marks."""
    return any(mark.name in MARKS for mark in item.iter_markers())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    global _now
    _now = item
    try:
        return (yield)
    finally:
        _now = None


def _refuse(event, arguments):
    """A test without a mark starts no Python, which takes seconds to import what it needs."""
    if event != "subprocess.Popen" or _now is None or is_costly(_now):
        return
    if sys.executable in f"{arguments[0]} {arguments[1]}":
        raise RuntimeError(f"{_now.nodeid} starts a Python: mark it with pytest.mark.process")


sys.addaudithook(_refuse)
