"""Names and tooltips in every language: complete, in that language, and true to the schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .documented import Documented, Slot, documented_nodes

LOCALES = Path(__file__).parents[1] / "locales"
SCRIPTS = {"ru": r"[а-яё]", "zh": r"[\u4e00-\u9fff]"}  # translated; English is in the schemas
FILES = ("nodeDefs", "main")


@pytest.fixture(scope="module")
def nodes():
    return documented_nodes()


def read(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def key(name: str) -> str:
    """As the front end writes an input's name into a key: dots would be levels."""
    return name.replace(".", "_")


def shape(tree: Any) -> Any:
    """Keys of nested dicts."""
    return {name: shape(branch) for name, branch in tree.items()} if isinstance(tree, dict) else ""


def expected_shape(node: Documented) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for slot in node.inputs.values():
        inputs[slot.name] = {"name": "", "tooltip": ""}
        if slot.first:  # the front end shows the socket, and never the group
            inputs[key(slot.first)] = {"tooltip": ""}
    outputs = {str(i): _output_shape(slot) for i, slot in enumerate(node.outputs)}
    return {"display_name": "", "description": "", "inputs": inputs, "outputs": outputs}


def _output_shape(slot: Slot) -> dict[str, str]:
    # ComfyUI itself translates the name of an output that is called after its type.
    return {"tooltip": ""} if slot.name == slot.type else {"name": "", "tooltip": ""}


def pairs(language: str, nodes: dict[str, Documented]):
    """(where, English text, translation) of all descriptions and tooltips."""
    for node_id, translated in read(language).items():
        node = nodes[node_id]
        yield node_id, node.description, translated["description"]
        for name, slot in node.inputs.items():
            yield f"{node_id}.{name}", slot.tooltip, translated["inputs"][name]["tooltip"]
        for i, slot in enumerate(node.outputs):
            yield f"{node_id}.{i}", slot.tooltip, translated["outputs"][str(i)]["tooltip"]


# ---- the schemas, which are the English text ---------------------------------------------------


def test_every_input_and_output_is_explained(nodes):
    for node_id, node in nodes.items():
        for slot in (*node.inputs.values(), *node.outputs):
            assert len(slot.tooltip) > 10, f"{node_id}.{slot.name}"


def test_every_node_is_found_by_other_words(nodes):
    for node_id, node in nodes.items():
        assert len(node.aliases) >= 2, node_id
        assert node.name not in node.aliases, "the display name is searched anyway"
    known = {alias.lower() for node in nodes.values() for alias in node.aliases}
    words = {"ipadapter", "ip-adapter", "faceid", "personalize", "fid", "lambda", "xy plot"}
    assert words <= known
    assert any("reference" in alias for alias in known)


@pytest.mark.parametrize("node_id", ["MultiIPAdapter_Apply", "MultiIPAdapter_Train"])
def test_the_model_input_names_all_families(node_id, nodes):
    tooltip = nodes[node_id].inputs["model"].tooltip
    assert [family for family in ("SD1.x", "SD2.x", "SDXL") if family not in tooltip] == []


def test_english_adds_only_what_a_schema_cannot_say(nodes):
    """The tooltip of the first socket of an input that grows."""
    expected = {
        node_id: {
            "inputs": {
                key(slot.first): {"tooltip": slot.tooltip}
                for slot in node.inputs.values()
                if slot.first
            }
        }
        for node_id, node in nodes.items()
        if any(slot.first for slot in node.inputs.values())
    }
    assert read("en") == expected


# ---- the translations --------------------------------------------------------------------------


@pytest.mark.parametrize("language", SCRIPTS)
def test_every_node_input_and_output_is_translated_and_nothing_else(language, nodes):
    translated = read(language)
    assert list(translated) == list(nodes)
    for node_id, node in nodes.items():
        assert shape(translated[node_id]) == expected_shape(node), node_id


@pytest.mark.parametrize("language", SCRIPTS)
def test_texts_are_in_the_language(language, nodes):
    for where, english, text in pairs(language, nodes):
        assert text != english and re.search(SCRIPTS[language], text.lower()), where
    names = [node["display_name"] for node in read(language).values()]
    assert all(re.search(SCRIPTS[language], name.lower()) for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("language", SCRIPTS)
def test_labels_of_a_node_differ(language, nodes):
    for node_id, node in read(language).items():
        labels = [x["name"] for x in node["inputs"].values() if "name" in x]
        assert len(set(labels)) == len(labels), node_id
        assert all(0 < len(label) <= 32 for label in labels), node_id


@pytest.mark.parametrize("language", SCRIPTS)
def test_a_growing_inputs_first_socket_says_what_the_input_says(language, nodes):
    translated = read(language)
    for node_id, node in nodes.items():
        for slot in node.inputs.values():
            if slot.first:
                inputs = translated[node_id]["inputs"]
                assert inputs[key(slot.first)]["tooltip"] == inputs[slot.name]["tooltip"]


def facts(text: str) -> set[str]:
    """What stays the same in every language: paths, names of files and settings, numbers."""
    return set(re.findall(r"[A-Za-z0-9]+(?:[/_.][A-Za-z0-9]+)+|\d+", text))


@pytest.mark.parametrize("language", SCRIPTS)
def test_translations_keep_paths_names_and_numbers(language, nodes):
    translated = read(language)
    for where, english, text in pairs(language, nodes):
        labels = translated[where.split(".")[0]]["inputs"]
        for fact in facts(english):
            label = labels.get(fact, {}).get("name", fact)  # inputs are called by their labels
            assert fact in text or label in text, f"{where}: {fact}"


@pytest.mark.parametrize("language", SCRIPTS)
def test_translations_call_nodes_by_their_translated_names(language, nodes):
    translated = read(language)
    for where, english, text in pairs(language, nodes):
        for node_id, node in nodes.items():
            if f"'{node.name}'" in english:
                assert translated[node_id]["display_name"] in text, f"{where}: {node.name}"


@pytest.mark.parametrize("language", ["en", *SCRIPTS])
def test_no_text_holds_what_the_front_end_takes_for_syntax(language):
    r"""vue-i18n reads {name} as a placeholder, @:key as a link and | as a plural form."""
    for name in FILES:
        text = json.dumps(list(_texts(read(language, name))), ensure_ascii=False)
        assert not re.search(r"[{}@|]", text)


def _texts(tree: Any):
    if isinstance(tree, str):
        yield tree
    else:
        for branch in tree.values():
            yield from _texts(branch)


@pytest.mark.parametrize("language", ["en", *SCRIPTS])
def test_the_category_has_a_name(language, nodes):
    (category,) = {node.category for node in nodes.values()}
    names = read(language, "main")["nodeCategories"]
    assert list(names) == [category] and "IP-Adapter" in names[category]


def test_the_server_hands_the_translations_out(server):
    served = server.client.get_json("/i18n")
    assert {path.name for path in LOCALES.iterdir()} == {"en", *SCRIPTS} == set(served)
    for language in served:
        assert served[language] == read(language, "main") | {"nodeDefs": read(language)}
