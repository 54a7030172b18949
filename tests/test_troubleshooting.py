"""docs/troubleshooting.md knows every message of the source, and no other."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from .documented import documented_nodes
from .messages import GAP, Message, Silent, Sources, clean

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
COMFYUI = "Refused by ComfyUI itself"
_LEAST = 6  # letters of a phrase that does not make up a whole message
_BEFORE = 14  # letters of a message before the phrase, such as those of "There is no"

# Phrases of messages that no user of the nodes and commands can cause, by the reason.
INTERNAL = {
    "calls of Python functions with tensors that do not belong together; the callers check": (
        "embeddings for … pictures; expected",
        "marks of … for … pictures",
        "Got … entries for … pictures",
        "features are … of …; expected [pictures, values]",
        "Got … picture(s); expected at least",
        "The … features have … values per picture",
        "Got values of shape",
        "values are NaN or infinite; expected finite numbers. Leave out",
        "Got confidence … and … resamples",
        "Got … for … values; expected one each",
        "Got features of shape",
        "Got pictures of shape",
        "Got … to store; the encoder gives",
        "Got pictures that are not in the cache",
        "Several processes need one store folder",
    ),
    "caught by the function that asked, which says it in its own words": (
        "is not finite",
        "got …, expected …",
        "the header is cut off",
        "got … bytes, expected …",
        "checksum of",
        "rows and pictures differ in number",
    ),
    "ends the work that the user has stopped": ("Stopped while preparing faces",),
}

# Expressions in the place of a text that pass on one that is found where it is made.
PASSED_ON = {
    "_node_errors(answer['node_errors'])": "words of ComfyUI",
    "paths": "the class of the error has the text",
    "reason": "of a picture, from elsewhere",
    "item.reason": "of a picture, from elsewhere",
    "why": "of a picture, from elsewhere",
    "without": "reasons of pictures, by place",
    "' '.join(bad.values())": "of pictures, from elsewhere",
    "error": "of a part of the same file",
    "str(error)": "another error's",
    "str(error).removeprefix(f'{name}: ')": "another error's",
    "f'{path.name}: {error}'": "another error's, with the file",
    "f'{name}: {error}'": "another error's, with the file",
    "f'{relative[:200]}: {reasons[0]}'": "a reason, with the file",
    "f'{error}{_hint(path)}'": "another error's, with a hint",
    "warnings": "made by the callers",
    "[loaded.warning] if loaded.warning else []": "made where the file is read",
    "''": "no warning",
    "i": "an index, as Python's sequences give it",
    "total": "numbers of an evaluation that was stopped",
    "0": "numbers of an evaluation that was stopped",
    "name": "a picture that nobody can draw: the demo's own check",
}


class Entry(NamedTuple):
    """A row of the page: several messages with one cause and remedy."""

    section: str
    phrases: tuple[str, ...]
    remedy: str


@cache
def sources() -> tuple[list[Message], list[Silent]]:
    return Sources().messages()


@cache
def entries() -> list[Entry]:
    """The page's rows whose first column holds messages; each phrase is a piece of code."""
    found, section, head = [], "", ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = re.split(r"(?<!\\)\|", line)[1:-1] if line.startswith("|") else []
        head = "" if not cells else head or cells[0].strip()
        if len(cells) == 2 and head == "it says" and not cells[0].startswith((" it says", "---")):
            phrases = tuple(map(clean, re.findall(r"`([^`]+)`", cells[0])))
            found.append(Entry(section, phrases, cells[1].strip()))
    return found


def ours() -> list[Entry]:
    return [entry for entry in entries() if entry.section != COMFYUI]


def fits(phrase: str, text: str) -> bool:
    """The phrase stands at, or near, the message's beginning, and says enough to be found."""
    phrase, text = (x.lstrip(f"{GAP} :;,.'").rstrip(" .") for x in (phrase, text))
    if phrase == text:
        return True
    place = text.find(phrase) if " " in phrase and _letters(phrase) >= _LEAST else -1
    return place >= 0 and _letters(text[:place]) <= _BEFORE


def _letters(text: str) -> int:
    return len(re.findall(r"\w", text))


def phrases_of(listed: list[Entry]) -> list[str]:
    return [phrase for entry in listed for phrase in entry.phrases]


# ---- complete, and true ------------------------------------------------------------------------


def test_every_message_has_an_entry():
    known = [*phrases_of(ours()), *(p for phrases in INTERNAL.values() for p in phrases)]
    missing = [m for m in sources()[0] if not any(fits(phrase, m.text) for phrase in known)]
    assert missing == []


def test_every_entry_is_some_message():
    texts = [message.text for message in sources()[0]]
    internal = [phrase for phrases in INTERNAL.values() for phrase in phrases]
    stale = [
        phrase
        for phrase in [*phrases_of(ours()), *internal]
        if not any(fits(phrase, text) for text in texts)
    ]
    assert stale == []


def test_what_holds_no_text_passes_one_on():
    assert {silent.expression for silent in sources()[1]} == set(PASSED_ON)


def test_comfyuis_own_words_are_in_its_source():
    root = Path(os.environ["COMFYUI_PATH"])
    source = "".join((root / name).read_text("utf-8") for name in ("execution.py", "nodes.py"))
    phrases = phrases_of([entry for entry in entries() if entry.section == COMFYUI])
    assert len(phrases) >= 8
    assert [phrase for phrase in phrases if phrase not in source] == []


# ---- usable ------------------------------------------------------------------------------------


def test_entries_are_told_once_and_with_a_remedy():
    repeated = {p for p, count in Counter(phrases_of(entries())).items() if count > 1}
    assert repeated == set()
    assert [entry for entry in entries() if not entry.phrases or len(entry.remedy) < 12] == []


def test_sections_name_the_nodes():
    headings = " ".join({entry.section for entry in entries()})
    names = {node.name.partition(" (")[0] for node in documented_nodes().values()}
    no_words_of_their_own = {"Save Multi-IPAdapter", "Demo References"}
    assert {name for name in names if name not in headings} == no_words_of_their_own


# ---- the reader of the source ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("nodes", "Got no reference images; connect at least one to reference_images."),
        ("nodes", "… has no trained aggregator: 'learned' acts as 'mean'."),
        ("files", "There is no file … in …. Check the name, or put the file there."),
        ("training", "Got held_out = …; expected at least 0 and below 1."),
        ("pictures", "lies beside the identities' folders; move it into one"),
        ("evaluation", "CMMD of …; published values are of …. Do not compare with them."),
        ("evaluation", "… needs generated pictures."),
        ("faces", "near-duplicate of …"),
    ],
)
def test_messages_of_each_kind_are_found(folder, text):
    assert any(m.text == text and m.place.startswith(f"{folder}/") for m in sources()[0])


def test_phrases_fit_the_beginning_of_messages():
    assert fits("Got size =", "Got size = …; expected a multiple of 8")
    assert fits("is not a file", "is not a file")
    assert fits("missing", "missing")
    assert not fits("missing", "missing tensors: …")
    assert not fits("expected a multiple", "Got a very long beginning of this; expected a multiple")
    assert not fits("Got", "Got size = …")
