"""CI without a browser is red where one could be had, and green where it could not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .browser import require_browser

RUN = Path(__file__).parents[1] / ".ci" / "run"
NEED = "MULTI_IPADAPTER_NEED_BROWSER"
TELL = f"import os; print(os.environ.get({NEED!r}, 'optional'))"  # in the place of dev.py


@pytest.fixture
def nowhere(monkeypatch):
    """No browser on this machine."""
    monkeypatch.setenv("PATH", "")
    for name in ("CHROME", NEED):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_browser_skips_the_tests_that_need_it(nowhere):
    with pytest.raises(pytest.skip.Exception, match="no Chromium or Chrome found"):
        require_browser()


def test_a_missing_browser_is_an_error_where_one_was_installed(nowhere, monkeypatch):
    monkeypatch.setenv(NEED, "1")
    outcomes = (pytest.fail.Exception, pytest.skip.Exception)
    with pytest.raises(outcomes, match=f"no Chromium or Chrome found.*{NEED}") as caught:
        require_browser()
    assert caught.type is pytest.fail.Exception


# ---- .ci/run, with another dev.py and other programs on its path --------------------------------


@pytest.fixture
def told(tmp_path):
    """Run it with these programs; returns what it tells dev.py, and its own words."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "dev.py").write_text(TELL)
    shutil.copy(RUN, tmp_path / ".ci")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "dirname", "cp"):
        (programs / name).symlink_to(shutil.which(name))
    (programs / "python3").symlink_to(sys.executable)

    def run(**scripts: str) -> tuple[str, str]:
        for name, script in scripts.items():
            file = programs / name.replace("_", "-")
            file.write_text(f"#!{programs / 'sh'}\n{script}\n")
            file.chmod(0o755)
        command = [programs / "bash", tmp_path / ".ci" / "run"]
        environ = {"PATH": str(programs), "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr

    return run


ROOT, USER = "echo 0", "echo 1000"  # of `id -u`


def test_with_a_browser_ci_needs_it(told):
    assert told(chromium="true") == ("1", "")


def test_with_python_alone_ci_does_without_a_browser(told):
    assert told() == ("optional", "")


def test_without_the_right_to_install_ci_does_without_a_browser(told):
    assert told(id=USER, apt_get="cp $0 ${0%apt-get}chromium") == ("optional", "")


def test_ci_installs_a_browser_where_it_may_and_then_needs_it(told):
    assert told(id=ROOT, apt_get="cp $0 ${0%apt-get}chromium") == ("1", "")


def test_an_installation_that_fails_is_said(told):
    need, words = told(id=ROOT, apt_get="exit 1")
    assert need == "optional" and "Chromium could not be installed" in words


def test_pictures_of_the_page_are_kept_where_git_does_not_look(told, tmp_path):
    (tmp_path / "dev.py").write_text("import os; print(os.environ['MULTI_IPADAPTER_ARTIFACTS'])")
    assert told() == (str(tmp_path / "screenshots"), "")
    ignored = (RUN.parents[1] / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/screenshots/" in ignored
