"""ComfyUI's own front end in a headless Chromium, for the browser tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from multi_ipadapter.demo.client import ComfyClient

from .contrast import CONTRASTS

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",  # root in a container
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
SIZE = {"width": 1600, "height": 1000}
PATIENCE = 120_000  # ms; a busy machine may need it
_READY = (
    "() => window.app?.vueAppReady && app.extensionManager?.workflow?.activeWorkflow?.isLoaded"
    " && app.canvas?.canvas?.width > 0"
)
# What the front end says by itself, with the address that it is about or comes from: it asks for
# files that a new user does not have, first for a help page of the language, and other hosts about
# models that its own first workflow names.
_HERE = r"\(http://127\.0\.0\.1:\d+"
_NOT_THERE = (
    r"/api/userdata[/?]\S*",
    r"(/api)?/user\.css",
    r"/favicon\.ico",
    r"\S*/docs/\w+/en\.md",
)
_ITS_OWN = re.compile(
    rf"Failed to load resource: .* 404 .*{_HERE}({'|'.join(_NOT_THERE)})\)"
    rf"|.*https://.*Content Security Policy.*{_HERE}/assets/\S+\)"
    rf"|ComfyApp graph accessed before initialization {_HERE}/assets/\S+\)",
    re.DOTALL,
)
# While it works the front end dims the page. It takes the dimming away when that has faded out, but
# if it dims again meanwhile, the first dimming stays for ever and swallows each click. What does
# not fade goes at once.
_NO_FADING = """addEventListener('DOMContentLoaded', () => {
    const style = document.createElement('style')
    style.textContent = '.p-blockui-mask { animation: none !important }'
    document.head.append(style)
})"""


def find_browser() -> str | None:
    """A Chromium or Chrome of this machine; the variable CHROME names another one."""
    return os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)


def require_browser() -> None:
    """Skip the test where there is no browser; where CI has installed one, that is an error."""
    if find_browser() is not None:
        return
    missing = "no Chromium or Chrome found for the browser tests; install one, or name it in CHROME"
    if os.environ.get("MULTI_IPADAPTER_NEED_BROWSER"):
        pytest.fail(f"{missing}: MULTI_IPADAPTER_NEED_BROWSER is set")
    pytest.skip(missing)


@pytest.fixture(scope="module")
def front_end(server, tmp_path_factory) -> Iterator[FrontEnd]:
    """A tab on the tests' server; pictures of it stay in MULTI_IPADAPTER_ARTIFACTS."""
    require_browser()
    server.client.post_json("/settings/Comfy.TutorialCompleted", True)  # no dialog over the canvas
    shots = os.environ.get("MULTI_IPADAPTER_ARTIFACTS") or tmp_path_factory.mktemp("browser")
    with open_front_end(server.client.url, Path(shots)) as opened:
        yield opened
    stop_running(server.client)


def stop_running(client: ComfyClient) -> None:
    """Empty the queue and wait until nothing runs, so that nobody waits behind what was left."""
    end = time.monotonic() + PATIENCE / 1000
    client.post_json("/queue", {"clear": True})
    while client.get_json("/queue")["queue_running"]:
        assert time.monotonic() < end, "what runs on the server does not end when interrupted"
        client.post_json("/interrupt")
        time.sleep(0.2)


@contextmanager
def open_front_end(url: str, shots: Path) -> Iterator[FrontEnd]:
    """A tab on the ComfyUI at `url`."""
    shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(FLAGS))
        try:
            page = browser.new_page(viewport=SIZE, accept_downloads=True)
            page.set_default_timeout(PATIENCE)
            page.add_init_script(_NO_FADING)
            yield FrontEnd(page, url, shots)
        finally:
            browser.close()


THEMES = ("dark", "light", "nord", "github")


class FrontEnd:
    """A tab with ComfyUI in it, and everything that went wrong there (`errors`)."""

    def __init__(self, page: Page, url: str, shots: Path):
        self.page, self.url, self.shots = page, url, shots
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("console", self._hear)
        self.open()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location.get('url', '')})")

    def _note(self, text: str) -> None:
        if not _ITS_OWN.fullmatch(text):
            self.errors.append(text)

    def open(self) -> None:
        """Load the page, or load it again."""
        self.page.goto(self.url)
        self.wait(_READY)

    def run(self, script: str, argument: Any = None) -> Any:
        """Value of a JavaScript function or expression; promises are awaited.

        Unlike Playwright's own `evaluate`, it does not wait for ever for a page that hangs.
        """
        boxed = (
            f"async argument => {{ const script = ({script});"
            " return {value: typeof script === 'function' ? await script(argument) : script} }"
        )
        return self.page.wait_for_function(boxed, arg=argument).json_value()["value"]

    def wait(self, script: str, argument: Any = None) -> None:
        """Until a JavaScript function says true."""
        self.page.wait_for_function(script, arg=argument)

    def set(self, setting: str, value: Any) -> None:
        """One of ComfyUI's settings."""
        self.run(
            "([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value]
        )

    def switch_theme(self, theme: str) -> None:
        """Until the page has the theme's colours, and no colour is on its way any more."""
        colours = """() => {
            const style = getComputedStyle(document.documentElement)
            return style.getPropertyValue('--comfy-menu-bg') + style.getPropertyValue('--fg-color')
        }"""
        before = self.run(colours)
        if self.run("() => app.extensionManager.setting.get('Comfy.ColorPalette')") == theme:
            return
        self.set("Comfy.ColorPalette", theme)
        self.wait(f"before => ({colours})() !== before", before)
        self.wait("() => !document.getAnimations().some(moving => moving instanceof CSSTransition)")

    def contrasts(self, selector: str) -> list[tuple[str, float, float]]:
        """(text, contrast that it needs, contrast that it has) of what is seen in an element."""
        return self.run(CONTRASTS, selector)

    def drop(self, name: str, graph: Mapping[str, Any]) -> None:
        """Drag a file with a workflow, or with an API prompt, onto the canvas."""
        self.run(
            """([name, text]) => {
                const dataTransfer = new DataTransfer()
                const file = new File([text], `${name}.json`, {type: 'application/json'})
                dataTransfer.items.add(file)
                const at = {bubbles: true, cancelable: true, clientX: 800, clientY: 500}
                const canvas = document.querySelector('#graph-canvas')
                for (const kind of ['dragenter', 'dragover', 'drop'])
                    canvas.dispatchEvent(new DragEvent(kind, {dataTransfer, ...at}))
            }""",
            [name, json.dumps(graph)],
        )
        self.wait(
            """([name, count]) => app.graph.nodes.length === count
                && app.extensionManager.workflow.activeWorkflow.filename === name""",
            [name, len(graph.get("nodes", graph))],
        )

    def empty(self) -> None:
        """Take everything off the canvas."""
        self.run("() => app.graph.clear()")

    def look_at(self, node_type: str) -> None:
        """Put the first node of a type into the middle of the tab, unzoomed."""
        self.run(
            """async type => {
                const {pos, size} = app.graph.nodes.find(node => node.type === type)
                const {width, height} = app.canvas.canvas.getBoundingClientRect()
                const top = Math.min((height - size[1]) / 2, height - size[1] - 20)
                app.canvas.ds.scale = 1
                app.canvas.ds.offset = [(width - size[0]) / 2 - pos[0], top - pos[1]]
                app.canvas.setDirty(true, true)
                await new Promise(done => setTimeout(done, 300))
            }""",
            node_type,
        )

    def sizes(self) -> list[list[float]]:
        """Sizes of the nodes, once they have not changed for half a second."""
        read = "() => app.graph.nodes.map(node => [...node.size])"
        before, now = None, self.run(read)
        while now != before:
            self.page.wait_for_timeout(500)
            before, now = now, self.run(read)
        return now

    def prompt(self) -> dict[str, Any]:
        """The API prompt that 'Run' would send."""
        return self.run("async () => (await app.graphToPrompt()).output")

    def press_run(self) -> None:
        """Queue what is on the canvas, as a user would."""
        self.page.get_by_test_id("queue-button").click()

    def press_cancel(self) -> None:
        """Interrupt what runs, as a user would."""
        self.page.get_by_label("Cancel current run").click()

    def shot(self, name: str) -> None:
        """Keep a picture of the tab."""
        self.page.screenshot(path=self.shots / f"{name}.png")
