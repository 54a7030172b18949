"""Checks prompts and saved workflows against the schemas that a ComfyUI server lists."""

from __future__ import annotations

from typing import Any, NamedTuple

# Their options are the files of a machine.
FILE_INPUTS = ("ckpt_name", "clip_name", "image", "ipadapter_file", "references_file")
FILE_INPUTS += ("control_net_name", "model_name", "vae_name")
NOTES = ("Note", "MarkdownNote")
ANY = "*"
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class Input(NamedTuple):
    """One input of a node."""

    type: str
    options: dict[str, Any]
    required: bool

    @property
    def is_widget(self) -> bool:
        """Whether it holds a value rather than a link."""
        return self.type in _WIDGETS

    @property
    def has_control(self) -> bool:
        """Whether the front end keeps 'control after generate' beside the value."""
        return bool(self.options.get("control_after_generate"))


def node_inputs(schema: dict[str, Any]) -> dict[str, Input]:
    """Inputs by name, widgets in the front end's order; Autogrow inputs one by one."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in schema["input"].get(group, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):  # the old way to write a combo
                kind, options["options"] = "COMBO", kind
            if kind == "COMFY_AUTOGROW_V3":
                found |= _autogrow(name, options["template"])
            else:
                found[name] = Input(kind, options, group == "required")
    return found


def _autogrow(name: str, template: dict[str, Any]) -> dict[str, Input]:
    ((kind, options),) = template["input"]["required"].values()
    return {
        f"{name}.{template['prefix']}{i}": Input(kind, options, i < template["min"])
        for i in range(template["max"])
    }


def prompt_problems(prompt: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    """What is wrong with a prompt in API format; empty when all is well."""
    problems = []
    for node_id, node in prompt.items():
        schema = object_info.get(node["class_type"])
        if schema is None:
            problems.append(f"{node_id}: unknown node {node['class_type']}")
            continue
        inputs = node_inputs(schema)
        for name, value in node["inputs"].items():
            problem = (
                _value_problem(name, value, inputs[name], prompt, object_info)
                if name in inputs
                else "unknown input"
            )
            problems += [f"{node_id}.{name}: {problem}"] if problem else []
        required = {name for name, spec in inputs.items() if spec.required}
        problems += [f"{node_id}.{name}: missing" for name in required - node["inputs"].keys()]
    if not any(object_info.get(n["class_type"], {}).get("output_node") for n in prompt.values()):
        problems.append("no output node")
    return problems


def _value_problem(name, value, spec: Input, prompt, object_info) -> str | None:
    if isinstance(value, list):
        source = prompt.get(value[0])
        outputs = object_info.get(source["class_type"], {}).get("output", []) if source else []
        if value[1] >= len(outputs):
            return f"no such output: {value}"
        kind = outputs[value[1]]
        return None if spec.type in (kind, ANY) else f"got {kind}, expected {spec.type}"
    return widget_problem(name, value, spec)


def widget_problem(name: str, value: Any, spec: Input) -> str | None:
    """What is wrong with a widget's value, or None."""
    kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}
    if spec.type not in kinds or not isinstance(value, kinds[spec.type]):
        return f"got {value!r}, expected {spec.type}"
    if spec.type == "COMBO" and name not in FILE_INPUTS and value not in spec.options["options"]:
        return f"{value!r} is no option"
    if spec.type in ("INT", "FLOAT"):
        low, high = spec.options.get("min", value), spec.options.get("max", value)
        return None if low <= value <= high else f"{value} is outside {low}..{high}"
    return None


def workflow_problems(workflow: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    """What is wrong with the links and widgets of a workflow in the front end's format."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    problems = [] if len(nodes) == len(workflow["nodes"]) else ["node ids repeat"]
    ends = set()
    for link, source, slot, target, place, kind in workflow["links"]:
        output = nodes[source]["outputs"][slot]
        into = nodes[target]["inputs"][place]
        schema_output = object_info[nodes[source]["type"]]["output"][slot]
        spec = node_inputs(object_info[nodes[target]["type"]]).get(into["name"])
        if link not in (output["links"] or []) or into["link"] != link:
            problems.append(f"link {link}: its nodes do not know it")
        types = {kind, output["type"], schema_output}
        if spec is None or into["type"] != spec.type or types | {spec.type} - {ANY} != {kind}:
            problems.append(f"link {link}: wrong type or unknown input {into['name']}")
        ends.add(link)
    for node in nodes.values():
        known = {i["link"] for i in node.get("inputs", [])} - {None}
        known |= {link for o in node.get("outputs", []) for link in o["links"] or []}
        problems += [f"node {node['id']}: dangling link {link}" for link in known - ends]
        if node["type"] not in NOTES:
            problems += _widget_problems(node, object_info[node["type"]])
    return problems


def _widget_problems(node: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    specs = node_inputs(schema)
    values, surplus = widget_values(node, schema)
    expected = {name for name, spec in specs.items() if spec.is_widget}
    problems = [f"node {node['id']}: no value for {name}" for name in expected - values.keys()]
    problems += [f"node {node['id']}: too many values: {surplus}"] if surplus else []
    found = ((name, widget_problem(name, value, specs[name])) for name, value in values.items())
    return problems + [f"node {node['id']}.{name}: {text}" for name, text in found if text]


def widget_values(node: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], list]:
    """Values of a saved node by name, and what is left over."""
    rest = list(node.get("widgets_values") or [])
    values = {}
    for name, spec in node_inputs(schema).items():
        if spec.is_widget and rest:
            values[name] = rest.pop(0)
            if spec.has_control:
                rest.pop(0)
            if spec.options.get("image_upload"):
                rest.pop(0)  # the upload button
    return values, rest


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The prompt that the front end makes of a workflow, without titles."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values, _ = widget_values(node, object_info[node["type"]])
        links = {
            i["name"]: sources[i["link"]] for i in node.get("inputs", []) if i["link"] is not None
        }
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values | links}
    return prompt
