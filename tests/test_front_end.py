"""How the front-end part is built: one extension, which needs nothing but ComfyUI's app and API."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

from .messages import Sources

JS = Path(__file__).parents[1] / "js"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in JS.glob("*.js")}
SERVED = "/extensions/pack/"  # ComfyUI serves js/ there, under the name of the pack's folder
# `import x from "y"`, `export x from "y"`, `import "y"` and `import("y")`; of an expression: none.
_IMPORTED = re.compile(r"""(?:\bfrom|\bimport)\b\s*(?:\(\s*)?["'`]([^"'`]+)["'`]""")
_COMPUTED = re.compile(r"""\bimport\s*\(\s*[^"'\s]""")


def imported(source: str) -> list[str]:
    """What a module imports, by the address that its browser asks for."""
    return [urljoin(SERVED, name) for name in _IMPORTED.findall(source)]


def test_every_script_is_in_the_folder_itself():
    """Where the other tests here look, and where ComfyUI's browser page would load it from."""
    assert set(JS.rglob("*.js")) == {JS / name for name in SOURCES}


def test_one_extension_is_registered():
    found = [name for name, text in SOURCES.items() for _ in re.findall("registerExtension", text)]
    assert found == ["multi_ipadapter.js"]


def test_nothing_is_imported_but_what_is_there_and_comfyuis_app_and_api():
    addresses = {address for text in SOURCES.values() for address in imported(text)}
    outside = {address for address in addresses if not address.startswith(SERVED)}
    assert outside == {"/scripts/app.js", "/scripts/api.js"}
    assert {address.removeprefix(SERVED) for address in addresses - outside} <= set(SOURCES)
    assert [name for name, text in SOURCES.items() if _COMPUTED.search(text)] == []


def test_what_the_widgets_complain_of_is_among_the_messages():
    """So that docs/troubleshooting.md has to tell it; no other function marks a text as bad."""
    found = {m.text for m in Sources().messages()[0] if m.place.startswith("js/")}
    assert found == {
        "Failed at …",
        "The server tells nothing of this run",
        "Weights must be positive numbers: 1, 0.5",
        "… weights for …",
    }
    makers = [name for name, text in SOURCES.items() for _ in re.findall(r"\bbad: true", text)]
    assert makers == ["widgets.js"]


def test_what_the_server_refuses_is_among_the_messages():
    texts = [message.text for message in Sources().messages()[0]]
    assert "The run … lies outside of the folder of the runs." in texts
