"""The subgraph blueprint, from pictures to a steered model in one block: sound, served, and equal
to the four nodes wired by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from multi_ipadapter.demo.prompt import ADAPTER_FILE
from multi_ipadapter.demo.server import PACK_NAME

from .graphs import difference, prompt_for, render, upload_portraits
from .schemas import node_inputs, prompt_problems, widget_problem, widget_values

NAME = "Multi-Image IP-Adapter"
PATH = Path(__file__).parents[1] / "subgraphs" / f"{NAME}.json"
OUTSIDE, RESULT = -10, -20  # ids of a subgraph's own inputs and outputs


@pytest.fixture
def blueprint():
    return json.loads(PATH.read_text(encoding="utf-8"))


def inside(blueprint: dict[str, Any]) -> dict[str, Any]:
    (definition,) = blueprint["definitions"]["subgraphs"]
    return definition


def ends(blueprint: dict[str, Any]):
    """(name inside, node, input) of each input of the block."""
    definition = inside(blueprint)
    nodes = {node["id"]: node for node in definition["nodes"]}
    for link in definition["links"]:
        if link["origin_id"] == OUTSIDE:
            name = definition["inputs"][link["origin_slot"]]["name"]
            node = nodes[link["target_id"]]
            yield name, node, node["inputs"][link["target_slot"]]


def flattened(
    blueprint: dict[str, Any], object_info: dict[str, Any], given: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The block's nodes as parts of a prompt, and where its MODEL comes from."""
    definition = inside(blueprint)
    prompt = {}
    for node in definition["nodes"]:
        values, _ = widget_values(node, object_info[node["type"]])
        prompt[f"block:{node['id']}"] = {"class_type": node["type"], "inputs": values}
    for name, node, into in ends(blueprint):
        if name in given:
            prompt[f"block:{node['id']}"]["inputs"][into["name"]] = given[name]
    result = []
    for link in definition["links"]:
        source = [f"block:{link['origin_id']}", link["origin_slot"]]
        if link["target_id"] == RESULT:
            result = source
        elif link["origin_id"] != OUTSIDE:
            node = next(n for n in definition["nodes"] if n["id"] == link["target_id"])
            name = node["inputs"][link["target_slot"]]["name"]
            prompt[f"block:{node['id']}"]["inputs"][name] = source
    return prompt, result


def problems(blueprint: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    """What is wrong with the block's nodes, widgets and links."""
    definition = inside(blueprint)
    if unknown := {node["type"] for node in definition["nodes"]} - object_info.keys():
        return [f"unknown nodes {unknown}"]
    found = []
    for node in definition["nodes"]:
        schema = object_info[node["type"]]
        specs = node_inputs(schema)
        found += [f"unknown input {i['name']}" for i in node["inputs"] if i["name"] not in specs]
        values, surplus = widget_values(node, schema)
        widgets = {name for name, spec in specs.items() if spec.is_widget}
        found += [f"too many values: {surplus}"] if surplus else []
        found += [f"no value for {name}" for name in widgets - values.keys()]
        said = ((name, widget_problem(name, value, specs[name])) for name, value in values.items())
        found += [f"{name}: {text}" for name, text in said if text]
    return found + _link_problems(definition, object_info)


def _link_problems(definition: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    nodes = {node["id"]: node for node in definition["nodes"]}
    found = []
    for link in definition["links"]:
        here, there = link["origin_id"], link["target_id"]
        if here == OUTSIDE:
            source = definition["inputs"][link["origin_slot"]]
            known = source["linkIds"]
        else:
            source = nodes[here]["outputs"][link["origin_slot"]]
            known = source["links"]
            if object_info[nodes[here]["type"]]["output"][link["origin_slot"]] != source["type"]:
                found.append(f"link {link['id']}: no such output")
        if there == RESULT:
            target = definition["outputs"][link["target_slot"]]
            received = target["linkIds"]
        else:
            target = nodes[there]["inputs"][link["target_slot"]]
            received = [target["link"]]
            spec = node_inputs(object_info[nodes[there]["type"]]).get(target["name"])
            if spec is None or spec.type != target["type"]:
                found.append(f"link {link['id']}: another type of {target['name']}")
        if {source["type"], target["type"]} != {link["type"]}:
            found.append(f"link {link['id']}: wrong type")
        if link["id"] not in known or link["id"] not in received:
            found.append(f"link {link['id']}: its ends do not know it")
    return found


# ---- the file ----------------------------------------------------------------------------------


def test_the_block_is_one_node_of_one_subgraph(blueprint):
    """Else the front end refuses it."""
    (node,) = blueprint["nodes"]
    assert node["type"] == inside(blueprint)["id"]
    assert node["title"] == inside(blueprint)["name"] == NAME


def test_the_block_shows_what_its_subgraph_takes_and_gives(blueprint):
    (node,), definition = blueprint["nodes"], inside(blueprint)
    for slots in ("inputs", "outputs"):
        shown = [(slot["name"], slot["type"]) for slot in node[slots]]
        assert shown == [(slot["name"], slot["type"]) for slot in definition[slots]]
    names = [slot["name"] for slot in node["inputs"]]
    assert names[:2] == ["model", "reference_image_0"]
    assert {"ipadapter_file", "clip_name", "weight", "reference_weights"} <= set(names)
    (faces,) = (n["type"] for name, n, _ in ends(blueprint) if name == "face_analysis")
    assert faces == "MultiIPAdapter_EncodeReferences", "for FaceID adapters"
    assert [slot["type"] for slot in node["outputs"]] == ["MODEL"]


def test_the_blocks_widgets_are_those_of_its_nodes(blueprint):
    (node,) = blueprint["nodes"]
    widgets = {slot["name"] for slot in node["inputs"] if "widget" in slot}
    reached = {name: (str(n["id"]), i["name"]) for name, n, i in ends(blueprint) if "widget" in i}
    assert widgets == set(reached)
    # As in the blueprints that ComfyUI ships.
    assert [tuple(x) for x in node["properties"]["proxyWidgets"]] == list(reached.values())


def test_the_block_fits_the_schemas(blueprint, object_info):
    assert problems(blueprint, object_info) == []


def _rename_input(definition):
    definition["nodes"][2]["inputs"][1]["name"] = "images.image_0"


def _drop_value(definition):
    definition["nodes"][3]["widgets_values"].pop()


def _unknown_node(definition):
    definition["nodes"][0]["type"] = "MultiIPAdapter_Loader"


def _wrong_type(definition):
    definition["links"][0]["type"] = "MODEL"


def _forget_link(definition):
    definition["nodes"][0]["outputs"][0]["links"].pop()


FAULTS = (_rename_input, _drop_value, _unknown_node, _wrong_type, _forget_link)


@pytest.mark.parametrize("fault", FAULTS)
def test_checker_finds_faults(fault, blueprint, object_info):
    broken = copy.deepcopy(blueprint)
    fault(inside(broken))
    assert problems(broken, object_info) != []


# ---- in the server -----------------------------------------------------------------------------


def test_the_server_lists_it_under_its_name(server, blueprint):
    listed = server.client.get_json("/global_subgraphs")
    ours = {
        key: entry
        for key, entry in listed.items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
    }
    ((key, entry),) = ours.items()
    assert (entry["name"], entry["source"]) == (NAME, "custom_node")
    served = server.client.get_json(f"/global_subgraphs/{key}")
    assert json.loads(served["data"]) == blueprint


@pytest.fixture
def photos(server, tmp_path):
    return upload_portraits(server.client, tmp_path, 3)


def test_the_block_gives_the_picture_of_the_nodes_by_hand(server, object_info, blueprint, photos):
    by_hand = prompt_for(photos, weight=0.6)
    given = {"model": ["models", 0], "weight": 0.6, "ipadapter_file": ADAPTER_FILE}
    given |= {f"reference_image_{i}": [f"picture_{i}", 0] for i in range(3)}
    block, result = flattened(blueprint, object_info, given)
    with_block = by_hand | block
    for name in ("adapter", "references", "steered"):
        del with_block[name]
    with_block["sample"] = copy.deepcopy(by_hand["sample"])
    with_block["sample"]["inputs"]["model"] = result
    assert prompt_problems(with_block, object_info) == []
    # ComfyUI's loader reads no encoder as small as the demo's; all else is the block's own.
    (loader,) = (key for key, part in block.items() if part["class_type"] == "CLIPVisionLoader")
    del with_block[loader]
    for part in with_block.values():
        part["inputs"] = {
            name: ["models", 3] if value == [loader, 0] else value
            for name, value in part["inputs"].items()
        }
    first, second = (render(server.client, graph)[""] for graph in (by_hand, with_block))
    assert difference(first, second) == 0
