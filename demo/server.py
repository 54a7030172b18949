"""Runs the real ComfyUI, with this pack loaded, as a process: for the demo, for tests, or by hand.

`COMFYUI_PATH` names the ComfyUI to run. `python -m multi_ipadapter.demo.server` runs it until
Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path

from .client import ComfyClient

PACK = Path(__file__).resolve().parents[1]
PACK_NAME = "ComfyUI-MultiIPAdapter"
HOST = "127.0.0.1"
_TAIL = 25  # lines of the log in a message


class ServerError(RuntimeError):
    """ComfyUI cannot be started; the message says why."""


def comfyui_main() -> Path:
    """ComfyUI's main.py, from `COMFYUI_PATH`."""
    folder = os.environ.get("COMFYUI_PATH")
    main = Path(folder or "").expanduser().absolute() / "main.py"
    if not folder or not main.is_file():
        got = f"COMFYUI_PATH is {folder!r}" if folder else "COMFYUI_PATH is not set"
        raise ServerError(
            f"{got}; expected the top folder of a ComfyUI checkout. 'python dev.py demo' and "
            "'python dev.py server' set it by themselves."
        )
    return main


def prepare_base_directory(base: Path) -> None:
    """Make the folders that ComfyUI and the pack look into, and put the pack in."""
    for name in ("custom_nodes", "input", "output", "models/ipadapter"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes")
    example = comfyui_main().parent / "input" / "example.png"  # the picture in the workflows
    if example.is_file() and not (base / "input" / example.name).exists():
        shutil.copyfile(example, base / "input" / example.name)


def link_pack(custom_nodes: Path) -> None:
    """Put a link to this checkout into a custom_nodes folder, unless the checkout lies there.

    A link to another checkout is replaced; a folder of that name is somebody's and is not touched.
    """
    if PACK.parent == custom_nodes.resolve():
        return
    link = custom_nodes / PACK_NAME
    if link.exists() and link.samefile(PACK):
        return
    if os.path.lexists(link):
        try:
            # On Windows a junction goes by rmdir, which spares a folder with something in it.
            os.rmdir(link) if os.name == "nt" else os.unlink(link)
        except OSError as error:
            raise ServerError(
                f"{link} is in the way: this checkout ({PACK}) has to be linked there. Remove "
                "that copy of the pack, or choose another --base-directory."
            ) from error
    _make_link(link)


def _make_link(link: Path) -> None:
    try:
        link.symlink_to(PACK, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi  # symbolic links need a privilege on Windows, junctions do not

        _winapi.CreateJunction(str(PACK), str(link))


def has_accelerator() -> bool:
    """Whether ComfyUI can run on something faster than the CPU."""
    import torch  # takes seconds, so it waits until somebody asks

    return torch.accelerator.is_available()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def server_command(base: Path, port: int, arguments: Sequence[str] = ()) -> list[str]:
    """Command line of ComfyUI; nothing in it reaches for the network."""
    options = {"--base-directory": base, "--port": port, "--database-url": "sqlite:///:memory:"}
    command = [sys.executable, str(comfyui_main())]
    command += [str(part) for option in options.items() for part in option]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    if "--cpu" not in arguments and not has_accelerator():
        command.append("--cpu")
    return [*command, *arguments]


class ComfyServer:
    """A running ComfyUI, as a context manager; its output goes to `base`/server.log.

    Args:
        base: base directory; made if it is missing.
        arguments: further options of ComfyUI's main.py.
        timeout: seconds until it must answer.

    Raises:
        ServerError: on entering, if it ends or does not answer; with the end of its log.
    """

    def __init__(self, base: Path, arguments: Sequence[str] = (), timeout: float = 300):
        self.base = Path(base).absolute()
        self.arguments = tuple(arguments)
        self.timeout = timeout
        self.log = self.base / "server.log"
        self.client: ComfyClient
        self._process: subprocess.Popen

    def __enter__(self) -> ComfyServer:
        prepare_base_directory(self.base)
        port = free_port()
        command = server_command(self.base, port, self.arguments)
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.client = ComfyClient(f"http://{HOST}:{port}")
        try:
            self._wait_until_ready()
            if not self.client.get_json("/object_info/MultiIPAdapter_Apply"):
                raise ServerError(f"ComfyUI runs, but could not load this pack. {self._tail()}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, error, traceback) -> None:
        died = not self.is_running()
        self.stop()
        if died and isinstance(error, OSError):  # the connection broke because of that
            raise ServerError(self._end("by itself")) from error

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process: by SIGTERM, which a background job does not ignore as it does SIGINT,
        and, after 15 s, by force."""
        if not self.is_running():
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            if not self.is_running():
                raise ServerError(self._end("while starting"))
            try:
                self.client.get_json("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {self.timeout:.0f} s. {self._tail()}")

    def _end(self, when: str) -> str:
        code = self._process.returncode
        return f"ComfyUI ended {when}, with exit code {code}. {self._tail()}"

    def _tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return f"End of {self.log}:\n" + "\n".join(text.splitlines()[-_TAIL:])


def run_in_foreground(command: list[str]) -> int:
    """Run until it ends or Ctrl-C; signals reach ComfyUI itself."""
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it got the Ctrl-C too, and ends by itself


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; options that are not ours go to ComfyUI."""
    parser = argparse.ArgumentParser(
        prog="python -m multi_ipadapter.demo.server",
        description="Run ComfyUI with this pack until Ctrl-C.",
        epilog="Further options are ComfyUI's own.",
    )
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--base-directory", type=Path, required=True)
    options, others = parser.parse_known_args(arguments)
    base = options.base_directory.expanduser().absolute()
    try:
        prepare_base_directory(base)
        command = server_command(base, options.port, others)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"models, input and output: {base}\n"
        f"once it is ready, open http://{HOST}:{options.port} and load workflows/demo.json; Ctrl-C "
        "ends it",
        flush=True,
    )
    return run_in_foreground(command)


if __name__ == "__main__":
    sys.exit(main())
