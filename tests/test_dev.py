"""dev.py's own logic: what makes a new environment, what is refused, and what the user is told."""

import ast
import contextlib
import hashlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev():
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_dev(*arguments, **environ):
    """dev.py in a process of its own, with no package index but the ones in `environ`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "COMFYUI_PATH"))}
    return subprocess.run(
        [sys.executable, ROOT / "dev.py", *arguments],
        env={**kept, "PIP_CONFIG_FILE": os.devnull, **environ},
        capture_output=True,
        text=True,
    )


def archive_of(path, members, **attributes):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return path


class TestEnvironmentKey:
    PINS = ("comfyui", "pytest==1\n", ".cpython-311-x86_64-linux-gnu.so linux-x86_64")

    def test_same_pins_same_environment(self, dev):
        assert dev.environment_key(*self.PINS) == dev.environment_key(*self.PINS)

    @pytest.mark.parametrize("changed", range(3))
    def test_each_pin_changes_it(self, dev, changed):
        pins = [pin + "x" * (i == changed) for i, pin in enumerate(self.PINS)]
        assert dev.environment_key(*pins) != dev.environment_key(*self.PINS)

    @pytest.mark.parametrize("changed", range(3))
    def test_each_torch_pin_changes_it(self, dev, monkeypatch, changed):
        before = dev.environment_key(*self.PINS)
        torch = tuple(pin + ".1" * (i == changed) for i, pin in enumerate(dev.TORCH))
        monkeypatch.setattr(dev, "TORCH", torch)
        assert dev.environment_key(*self.PINS) != before


class TestCacheFolder:
    def test_variable_wins(self, dev, tmp_path):
        environ = {"MULTI_IPADAPTER_CACHE": str(tmp_path), "XDG_CACHE_HOME": "/elsewhere"}
        assert dev.cache_root(environ, "linux") == tmp_path

    @pytest.mark.parametrize(
        ("system", "environ", "expected"),
        [
            ("linux", {"XDG_CACHE_HOME": "/x"}, Path("/x")),
            ("linux", {}, Path.home() / ".cache"),
            ("darwin", {}, Path.home() / "Library" / "Caches"),
            ("win32", {"LOCALAPPDATA": "/l"}, Path("/l")),
        ],
    )
    def test_default_is_the_platforms(self, dev, system, environ, expected):
        assert dev.cache_root(environ, system) == expected / "multi-ipadapter"


class TestExtraction:
    def test_only_the_comfyui_folder_is_written(self, dev, tmp_path):
        members = {
            "sdist-1/setup.py": b"raise SystemExit",
            "sdist-1/vendor/ComfyUI/main.py": b"main",
            "sdist-1/vendor/ComfyUI/comfy/sd.py": b"sd",
        }
        dev.extract_comfyui(archive_of(tmp_path / "a.tar.gz", members), tmp_path / "out")
        written = {
            p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/**/*.py")
        }
        assert written == {"main.py", "comfy/sd.py"}
        assert (tmp_path / "out/comfy/sd.py").read_bytes() == b"sd"

    @pytest.mark.parametrize(
        "name", ["../../evil", "a/../../../evil", "/evil", "a\\..\\evil", "C:evil"]
    )
    def test_a_path_out_of_the_folder_is_refused(self, dev, tmp_path, name):
        archive = archive_of(tmp_path / "a.tar.gz", {f"s/vendor/ComfyUI/{name}": b"evil"})
        with pytest.raises(dev.SetupError, match="unsafe member"):
            dev.extract_comfyui(archive, tmp_path / "in" / "out")
        assert not list(tmp_path.rglob("*evil*"))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_links_and_devices_are_refused(self, dev, tmp_path, kind):
        archive = archive_of(
            tmp_path / "a.tar.gz", {"s/vendor/ComfyUI/x": b""}, type=kind, linkname="/etc/passwd"
        )
        with pytest.raises(dev.SetupError, match="unsafe member"):
            dev.extract_comfyui(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_another_hash_is_refused(self, dev, tmp_path):
        archive = tmp_path / "a.tar.gz"
        archive.write_bytes(b"content")
        dev.verify_sha256(archive, hashlib.sha256(b"content").hexdigest())
        with pytest.raises(dev.SetupError, match=r"a\.tar\.gz: got sha256 .* expected 00"):
            dev.verify_sha256(archive, "00" * 32)


class TestComfyUIPath:
    @pytest.mark.process
    def test_another_folder_is_refused_before_anything_is_made(self, tmp_path):
        (tmp_path / "main.py").touch()
        cache = tmp_path / "cache"
        done = run_dev("test", COMFYUI_PATH=str(tmp_path), MULTI_IPADAPTER_CACHE=str(cache))
        assert done.returncode == 1
        assert (
            f"COMFYUI_PATH is {tmp_path}, where comfy, requirements.txt is missing" in done.stderr
        )
        assert "Traceback" not in done.stderr
        assert not cache.exists()

    def test_its_requirements_name_the_environment(self, dev, tmp_path, monkeypatch):
        (tmp_path / "comfy").mkdir()
        (tmp_path / "main.py").touch()
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        made = []
        monkeypatch.setattr(dev, "set_up", lambda env, comfyui, lock: made.append((env, comfyui)))
        for text in ("torch\n", "torch\n", "torch\nnumpy\n"):
            (tmp_path / "requirements.txt").write_text(text)
            dev.prepare(tmp_path / "cache")
        environments = [env for env, _ in made]
        assert environments[0] == environments[1] != environments[2]
        assert {comfyui for _, comfyui in made} == {tmp_path}

    def test_the_same_requirements_share_the_environment(self, dev, tmp_path, monkeypatch):
        """COMFYUI_PATH may name dev.py's own ComfyUI; then no second environment is made."""
        made = []
        monkeypatch.setattr(dev, "set_up", lambda env, comfyui, lock: made.append(env))
        (tmp_path / "comfy").mkdir()
        (tmp_path / "main.py").touch()
        (tmp_path / "requirements.txt").write_text("torch\n")
        digest = hashlib.sha256(b"torch\n").hexdigest()
        for path, known in ((None, ""), (tmp_path, digest), (tmp_path, "another")):
            monkeypatch.setattr(dev, "REQUIREMENTS_SHA256", known)
            monkeypatch.delenv("COMFYUI_PATH", raising=False)
            if path:
                monkeypatch.setenv("COMFYUI_PATH", str(path))
            dev.prepare(tmp_path / "cache")
        assert made[0] == made[1] != made[2]

    def test_the_known_requirements_are_those_of_its_comfyui(self, dev):
        """Only those of ComfyUI v0.30.0 are known; the tests may run with another version."""
        comfyui = Path(os.environ["COMFYUI_PATH"])
        version = re.search(r'"(.+)"', (comfyui / "comfyui_version.py").read_text())[1]
        requirements = (comfyui / "requirements.txt").read_text(encoding="utf-8")
        known = hashlib.sha256(requirements.encode()).hexdigest() == dev.REQUIREMENTS_SHA256
        assert known or version != "0.30.0"


class TestPythonVersion:
    @pytest.mark.process
    @pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 18), (3, 15, 0)])
    def test_an_unsupported_one_gets_a_message(self, version):
        script = (
            f"import runpy, sys; sys.version_info = {version}; sys.argv = ['dev.py', '--help']; "
            f"runpy.run_path({str(ROOT / 'dev.py')!r}, run_name='__main__')"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"got Python 3.{version[1]}, need 3.10 to 3.14" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 2)])
    def test_a_supported_one_passes(self, dev, version):
        assert dev.python_problem(version) == ""

    def test_it_parses_on_python_3_6(self):
        ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 6))


HOLDER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("dev", sys.argv[1])
dev = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
folder = pathlib.Path(sys.argv[2])
step = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
with dev.locked(folder / "lock") as lock:
    dev.Runner(folder / "log", folder, lock).run("step", sys.executable, "-c", step)
"""


class TestLock:
    @pytest.fixture
    def killed_set_up(self, dev, tmp_path):
        """The process id of a set-up's step whose dev.py was killed while the step runs."""
        command = [sys.executable, "-c", HOLDER, ROOT / "dev.py", tmp_path]
        log = tmp_path / "log"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as holder:
            while not (log.exists() and log.read_text().endswith("\n")):
                assert holder.poll() is None
                time.sleep(0.05)
            holder.kill()
        step = int(log.read_text())
        yield step
        with contextlib.suppress(ProcessLookupError):
            os.kill(step, signal.SIGKILL)

    def is_free(self, dev, path):
        with open(path, "ab") as file:
            return dev.try_lock(file.fileno())

    def test_one_holder_at_a_time(self, dev, tmp_path):
        with dev.locked(tmp_path / "lock"):
            assert not self.is_free(dev, tmp_path / "lock")
        assert self.is_free(dev, tmp_path / "lock")

    @pytest.mark.process
    def test_a_step_that_outlives_dev_py_keeps_it(self, dev, tmp_path, killed_set_up):
        assert not self.is_free(dev, tmp_path / "lock")

    @pytest.mark.process
    def test_it_never_goes_stale(self, dev, tmp_path, killed_set_up):
        os.kill(killed_set_up, signal.SIGKILL)
        with dev.locked(tmp_path / "lock"):  # waits only until the step has ended
            assert not self.is_free(dev, tmp_path / "lock")


class TestSetUp:
    @pytest.mark.process
    def test_no_network_gets_a_message_and_leaves_no_environment(self, dev, tmp_path):
        settings = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "1"}
        done = run_dev("test", MULTI_IPADAPTER_CACHE=str(tmp_path), **settings)
        assert done.returncode == 1
        assert "failed (exit code 1)" in done.stderr
        assert "The package index cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr
        (env,) = tmp_path.glob("env-*")
        assert not dev.is_complete(env)
        assert not (tmp_path / "setup.tmp").exists()

    def test_an_interrupted_environment_is_made_anew(self, dev, tmp_path, monkeypatch):
        env, comfyui = tmp_path / "env", tmp_path / "comfyui"
        comfyui.mkdir()
        (env / "half").mkdir(parents=True)

        def make_venv(runner, env):
            dev.venv_python(env).parent.mkdir(parents=True)
            dev.venv_python(env).touch()

        def install(runner, python, comfyui):
            assert not dev.is_complete(env)

        monkeypatch.setattr(dev, "make_venv", make_venv)
        monkeypatch.setattr(dev, "install_packages", install)
        with dev.locked(tmp_path / "lock") as lock:
            dev.set_up(env, comfyui, lock)
        assert dev.is_complete(env)
        assert not (env / "half").exists()

    def test_whoever_waited_for_another_set_up_uses_what_it_made(self, dev, tmp_path, monkeypatch):
        (tmp_path / f"comfyui-{dev.COMFYUI_SHA256[:16]}").mkdir()
        monkeypatch.delenv("COMFYUI_PATH", raising=False)
        made = []

        def set_up(env, comfyui, lock):
            dev.venv_python(env).parent.mkdir(parents=True)
            dev.venv_python(env).touch()
            (env / "complete").touch()
            made.append(env)

        @contextlib.contextmanager
        def locked(path):
            if not made:
                made.append("by the other process")
                dev.prepare(tmp_path)
            yield 0

        monkeypatch.setattr(dev, "set_up", set_up)
        monkeypatch.setattr(dev, "locked", locked)
        python, _ = dev.prepare(tmp_path)
        assert made[1:] == [python.parents[1]]

    @pytest.mark.process
    def test_a_failed_command_shows_the_end_of_its_output(self, dev, tmp_path):
        with dev.locked(tmp_path / "lock") as lock:
            runner = dev.Runner(tmp_path / "log", tmp_path, lock)
            runner.run("first", sys.executable, "-c", "print('No space left on device')")
            with pytest.raises(dev.SetupError) as failure:
                runner.run("second", sys.executable, "-c", "print('reason'); raise SystemExit(3)")
        message = str(failure.value)
        assert "second: failed (exit code 3)" in message
        assert "reason" in message
        assert "The disk is full" not in message, "a cause is looked for in this command's output"

    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            ("OSError: [Errno 28] No space left on device", "The disk is full"),
            ("/usr/bin/python3: No module named pip", "apt install python3-venv python3-pip"),
            ("ERROR: No matching distribution found for torch==2.11.0", "no build for Python"),
            ("something else", "run the same command again"),
        ],
    )
    def test_known_causes_get_advice(self, dev, output, expected):
        assert expected in dev.failure_message("step", 1, output, Path("log"))


@pytest.mark.process
def test_the_checkout_is_importable_under_its_name(dev, tmp_path):
    (tmp_path / "checkout" / "part").mkdir(parents=True)
    (tmp_path / "checkout" / "part" / "__init__.py").write_text("NAME = __name__\n")
    folder = dev.import_folder(tmp_path / "import", tmp_path / "checkout")
    done = subprocess.run(
        [sys.executable, "-c", "import multi_ipadapter.part as p; print(p.NAME, p.__file__)"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"multi_ipadapter.part {tmp_path / 'checkout' / 'part' / '__init__.py'}"
    assert done.stdout.strip() == expected


@pytest.mark.process
def test_help_names_every_command():
    done = run_dev("--help")
    assert done.returncode == 0
    for command in ("demo", "test", "lint", "server", "bench"):
        assert f"  {command} " in done.stdout
    assert "test --quick: " in done.stdout


@pytest.fixture
def commands(dev, monkeypatch, tmp_path):
    """Calls dev.py; returns its exit code and which Python modules it ran."""

    def call(arguments, failing=None):
        def run(command, *_, **__):
            what, *options = command[2:]  # after "python -m"
            ran.append(" ".join([what] if what == "mypy" else [what, *options]))
            return 7 * (ran[-1] == failing)

        ran = []
        monkeypatch.setattr(dev.subprocess, "call", run)
        monkeypatch.setattr(dev, "become", run)
        return dev.main(arguments), ran

    monkeypatch.setenv("MULTI_IPADAPTER_CACHE", str(tmp_path))
    monkeypatch.setattr(dev, "prepare", lambda cache: (tmp_path / "python", tmp_path))
    return call


LINT = ["ruff check", "ruff format --check", "mypy"]
SHARED = "pytest -n 2 --dist loadfile --no-loadscope-reorder"


def test_where_no_link_can_be_made_the_types_are_left_out(commands, dev, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("not permitted")

    monkeypatch.setattr(dev, "package_link", refuse)
    assert commands(["lint"]) == (0, LINT[:2])
    assert "mypy is left out: it needs a symbolic link (not permitted)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lint"], LINT),
        (["test"], [*LINT, SHARED]),
        (["test", "tests"], [f"{SHARED} tests"]),
        (["test", "--quick"], [f"{SHARED} --quick"]),
        (["test", "tests", "-k", "key"], ["pytest tests -k key"]),
    ],
    ids=" ".join,
)
def test_what_lints_and_what_tests(commands, arguments, expected):
    assert commands(arguments) == (0, expected)


@pytest.mark.parametrize("command", ["lint", "test"])
def test_the_first_failure_is_the_end(commands, command):
    for failing in LINT:
        code, ran = commands([command], failing)
        assert code == 7 and ran[-1] == failing


@pytest.mark.process
def test_an_unknown_benchmark_lists_the_known_ones(dev):
    done = run_dev("bench", "no_such_benchmark")
    assert done.returncode == 2
    assert done.stdout.split() == ["benchmarks:", *(dev.benchmark_names() or ["none", "yet"])]


def test_ci_runs_the_documented_command():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert '"$python" dev.py test' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


# ---- tests/tiers.py, on a suite of its own ------------------------------------------------------

SUITE = """
import subprocess, sys
import pytest

def python():
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest.fixture
def server(): pass

@pytest.fixture
def front_end(server): pass

def test_none(): subprocess.run(["git", "--version"])
def test_server(server): python()
def test_browser(front_end): pass
@pytest.mark.process
def test_process(): python()
@pytest.mark.slow
def test_slow(): pass
def test_forgotten(): python()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "passed", "closing"),
    [
        (["--quick"], {"none"}, "1 failed, 1 passed, 4 deselected in"),
        (["-m", "not browser"], {"none", "server", "process", "slow"}, "1 failed, 4 passed, 1 des"),
    ],
    ids=["quick", "mark"],
)
def test_tiers(tmp_path, arguments, passed, closing):
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ["-p", "multi_ipadapter.tests.tiers", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rpf", *options, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they take seconds to import
        capture_output=True,
        text=True,
    )
    assert set(re.findall(r"^PASSED .*::test_(\w+)", done.stdout, re.MULTILINE)) == passed
    assert "test_forgotten starts a Python: mark it with pytest.mark.process" in done.stdout
    assert f" {closing}" in done.stdout.splitlines()[-1]
