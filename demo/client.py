"""A small client of ComfyUI's HTTP API: upload pictures, run a prompt, fetch what it made."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Prompt = Mapping[str, Mapping[str, Any]]
Progress = Callable[[str, int, int], None]  # node id, step, number of steps (0, 0: it begins)


class PromptError(RuntimeError):
    """ComfyUI refused a prompt, or a node failed; the message holds the nodes' own words."""


class ComfyClient:
    """Talks to the ComfyUI at `url`, past any proxy."""

    def __init__(self, url: str, timeout: float = 60):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: str) -> bytes:
        """Body of a GET request."""
        return self._request(f"{path}?{urllib.parse.urlencode(query)}" if query else path)

    def get_json(self, path: str) -> Any:
        """Answer of a GET request, decoded."""
        return json.loads(self.get(path))

    def post_json(self, path: str, data: Any = None) -> Any:
        """Answer of a POST request (None when it is empty), decoded."""
        body = json.dumps({} if data is None else data).encode()
        return json.loads(self._request(path, body, "application/json") or "null")

    def upload(self, path: Path) -> str:
        """Put a picture into ComfyUI's input folder; returns its name for LoadImage."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        answer = json.loads(self._request("/upload/image", body, kind))
        return "/".join(filter(None, (answer["subfolder"], answer["name"])))

    def submit(self, prompt: Prompt, client_id: str = "") -> str:
        """Queue a prompt; returns its id.

        Raises:
            PromptError: ComfyUI found it invalid.
        """
        # Without one, ComfyUI 0.18 does not name the pictures of nodes that it need not run again.
        data = {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex}
        try:
            answer = self.post_json("/prompt", data)
        except urllib.error.HTTPError as error:
            raise PromptError(_refusal(error.read().decode(errors="replace"), prompt)) from error
        if answer.get("node_errors"):  # parts of it are valid and run
            raise PromptError(_node_errors(answer["node_errors"]))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """Wait until a queued prompt has run; returns its outputs by node id.

        Raises:
            PromptError: a node failed, or the prompt was interrupted.
            TimeoutError: it takes longer than `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while not (entry := self.get_json(f"/history/{prompt_id}").get(prompt_id)):
            if time.monotonic() > end:
                raise TimeoutError(f"The prompt has not finished after {timeout:.0f} s.")
            time.sleep(0.05)
        _raise_failure(entry["status"])
        return entry["outputs"]

    def run(
        self, prompt: Prompt, on_progress: Progress | None = None, timeout: float = 600
    ) -> dict[str, Any]:
        """Run a prompt; returns its outputs by node id. Errors: see `submit` and `wait`."""
        if on_progress is None:
            return self.wait(self.submit(prompt), timeout)
        prompt_id = asyncio.run(asyncio.wait_for(self._follow(prompt, on_progress), timeout))
        return self.wait(prompt_id, timeout)

    def pictures(self, outputs: Mapping[str, Any]) -> list[bytes]:
        """The picture files among a prompt's outputs."""
        images = [image for output in outputs.values() for image in output.get("images", [])]
        return [self.get("/view", **image) for image in images]

    async def _follow(self, prompt: Prompt, on_progress: Progress) -> str:
        """Submit with a websocket open and report what it says until the prompt has ended."""
        import aiohttp  # comes with ComfyUI

        client_id = uuid.uuid4().hex
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            prompt_id = self.submit(prompt, client_id)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue  # previews
                event = json.loads(message.data)
                data = event.get("data", {})
                if data.get("prompt_id") != prompt_id:
                    continue
                if event["type"] == "executing" and data["node"]:
                    on_progress(data["node"], 0, 0)
                elif event["type"] == "progress":
                    on_progress(data["node"], data["value"], data["max"])
                elif event["type"] in _ENDS:
                    break
        return prompt_id

    def _request(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, body, headers)
        with self._opener.open(request, timeout=self.timeout) as response:
            return response.read()


_ENDS = ("execution_success", "execution_error", "execution_interrupted")


def _refusal(body: str, prompt: Prompt) -> str:
    """What a 400 of /prompt says."""
    try:
        answer = json.loads(body)
    except ValueError:
        return f"ComfyUI refused the prompt: {body}"
    if answer.get("node_errors"):
        return _node_errors(answer["node_errors"])
    error = answer["error"]
    return f"{error['message']}: {error['details']}" if error.get("details") else error["message"]


def _node_errors(errors: Mapping[str, Any]) -> str:
    lines = [
        f"{entry['class_type']} (node {node}): {error['message']}: {error['details']}"
        for node, entry in errors.items()
        for error in entry["errors"]
    ]
    return "\n".join(lines)


def _raise_failure(status: Mapping[str, Any]) -> None:
    for kind, data in status["messages"]:
        if kind == "execution_error":
            raise PromptError(
                f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}"
            )
        if kind == "execution_interrupted":
            raise PromptError(f"interrupted at {data['node_type']} (node {data['node_id']})")
