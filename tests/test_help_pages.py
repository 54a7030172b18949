"""The help page of each node, in every language: complete, true to the schema, and served.

Also what other pages say of the nodes: names as they are shown, a default, and the block.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import comfyui_frontend_package
import pytest

from multi_ipadapter.demo.server import PACK_NAME

from .documented import AUTOGROW, Documented, Slot, documented_nodes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "js" / "docs"
LANGUAGES = ("en", "ru", "zh")
HEADINGS = {
    "en": ("Inputs", "Outputs", "Example", "Common mistakes"),
    "ru": ("Входы", "Выходы", "Пример", "Частые ошибки"),
    "zh": ("输入", "输出", "示例", "常见错误"),
}
OPTIONAL = {"en": "optional", "ru": "необязательно", "zh": "可选"}
NONE = {"en": "None.", "ru": "Нет.", "zh": "无。"}
# ComfyUI's nodes as its front end shows them; "checkpoint" begins with a Cyrillic letter there.
SHOWN = {
    "ru": {
        "Load Image": "Загрузить изображение",
        "Save Image": "Сохранить изображение",
        "Preview Image": "Предварительный просмотр изображения",
        "CLIP Text Encode (Prompt)": "Кодирование текста CLIP (Запрос)",
        "VAE Decode": "Декодировать VAE",
        "Load Checkpoint": "Загрузить \u0441heckpoint",
        "Load CLIP Vision": "Загрузить видение CLIP",
        "KSampler": "KSampler",
    },
    "zh": {
        "Load Image": "加载图像",
        "Save Image": "保存图像",
        "Preview Image": "预览图像",
        "CLIP Text Encode (Prompt)": "CLIP文本编码",
        "VAE Decode": "VAE解码",
        "Load Checkpoint": "Checkpoint加载器（简易）",
        "Load CLIP Vision": "加载CLIP视觉",
        "KSampler": "K采样器",
    },
}
# Their choices are the files of a machine, or a list that ComfyUI keeps.
OPEN = ("ipadapter_file", "references_file", "start_from", "statistics")
OPEN += ("sampler_name", "scheduler")
# What js/ adds to nodes: labels that a page must explain. They are English in every language.
ON_THE_NODE = {
    "MultiIPAdapter_EncodeReferences": ("Reset",),
    "MultiIPAdapter_Evaluate": ("better",),
    "MultiIPAdapter_Report": ("better",),
    "MultiIPAdapter_Sweep": (),
    "MultiIPAdapter_Train": ("matched", "none", "shuffled", "■", "PNG", "CSV", "‹", "›"),
}


@pytest.fixture(scope="module")
def nodes():
    return documented_nodes()


def page_path(node_id: str, language: str) -> Path:
    """Where the front end looks; English is what it falls back to in any other language."""
    return DOCS / (f"{node_id}.md" if language == "en" else f"{node_id}/{language}.md")


def page(node_id: str, language: str) -> str:
    return page_path(node_id, language).read_text(encoding="utf-8")


def pages(nodes: dict[str, Documented]):
    return [(node_id, language) for node_id in nodes for language in LANGUAGES]


# ---- the lists that a page must hold: what the schema and the translations say -----------------
# Lists, since the panel is too narrow for a table.


def translation(node_id: str, language: str) -> dict[str, Any] | None:
    """Its entry in the language's file; English has none, it is in the schema."""
    if language == "en":
        return None
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))[node_id]


def lists(node_id: str, node: Documented, language: str) -> tuple[str, str]:
    """Inputs and outputs as Markdown."""
    texts = translation(node_id, language) or {"inputs": {}, "outputs": {}}
    inputs = (
        _entry(slot, texts["inputs"].get(slot.name), _value(slot, language))
        for slot in node.inputs.values()
    )
    outputs = (
        _entry(slot, texts["outputs"].get(str(i)), f"`{slot.type}`")
        for i, slot in enumerate(node.outputs)
    )
    return "\n".join(inputs) or NONE[language], "\n".join(outputs)


def _entry(slot: Slot, translated: dict[str, str] | None, value: str) -> str:
    text = translated or {"tooltip": slot.tooltip}
    name = f"**{text['name']}** `{slot.name}`" if "name" in text else f"**`{slot.name}`**"
    return f"- {name} · {value}<br>{text['tooltip'].replace('<', '&lt;')}"


def _value(slot: Slot, language: str) -> str:
    """Type or choices, with the default in bold."""
    options, default = slot.options, slot.options.get("default")
    if slot.type == AUTOGROW:
        ((kind, *_),) = options["template"]["input"]["required"].values()
        return f"`{kind}` ≤ {options['template']['max']}"
    if slot.type == "COMBO" and slot.name in OPEN:
        return f"**`{default}`**, …" if default else "…"
    if slot.type == "COMBO":
        marks = ((choice, "**" if choice == default else "") for choice in options["options"])
        return ", ".join(f"{mark}`{choice}`{mark}" for choice, mark in marks)
    if slot.type in ("INT", "FLOAT"):
        return f"**{default}**, {options['min']} … {options['max']}"
    if slot.type == "BOOLEAN":
        return f"**{str(default).lower()}**"
    if slot.type == "STRING" and default:
        return f"**`{default}`**"
    return f"`{slot.type}`" + ("" if slot.required else f", {OPTIONAL[language]}")


# ---- the pages ---------------------------------------------------------------------------------


def test_every_node_has_a_page_in_every_language_and_nothing_else_has(nodes):
    found = {path for path in DOCS.rglob("*") if path.is_file()}
    assert found == {page_path(*each) for each in pages(nodes)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_name_every_input_and_output_as_the_node_does(language, nodes):
    for node_id, node in nodes.items():
        parts = re.split(r"^## .*$", page(node_id, language), flags=re.MULTILINE)
        for part, expected in zip(parts[1:3], lists(node_id, node, language), strict=True):
            assert part.strip() == expected, node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_have_the_nodes_name_and_all_sections(language, nodes):
    for node_id, node in nodes.items():
        name = (translation(node_id, language) or {"display_name": node.name})["display_name"]
        title, *sections = re.findall(r"^#+ (.*)$", page(node_id, language), re.MULTILINE)
        assert title == name
        assert sections == list(HEADINGS[language]), node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_sections_say_something(language, nodes):
    for node_id in nodes:
        parts = re.split(r"^## .*$", page(node_id, language), flags=re.MULTILINE)
        intro, _, _, example, mistakes = (part.strip() for part in parts)
        least = 30 if language == "zh" else 80
        assert min(len(intro), len(example)) >= least, node_id
        assert len(re.findall(r"^- ", mistakes, re.MULTILINE)) >= 2, node_id


def test_pages_are_short(nodes):
    """The help panel is narrow; the rest is in docs/."""
    for node_id, language in pages(nodes):
        intro, _, _, *rest = re.split(r"^## ", page(node_id, language), flags=re.MULTILINE)
        assert len("".join([intro, *rest])) < 2500, (node_id, language)


def test_nodes_in_italics_exist(nodes, object_info):
    """All by their names in the language."""
    core = {info["display_name"] for name, info in object_info.items() if name not in nodes}
    assert all(core >= names.keys() for names in SHOWN.values())
    for language in LANGUAGES:
        texts = [translation(node_id, language) for node_id in nodes]
        ours = {text["display_name"] for text in texts if text}
        shown = set(SHOWN.get(language, {}).values())
        names = (shown | ours) or core | {node.name for node in nodes.values()}
        for node_id in nodes:
            named = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page(node_id, language))
            assert set(named) <= names, f"{node_id}, {language}"


def test_comfyuis_nodes_are_called_as_its_front_end_shows_them():
    assets = Path(comfyui_frontend_package.__file__).parent / "static" / "assets"
    files = [path.read_text(encoding="utf-8") for path in assets.glob("nodeDefs-*.js")]
    for language, names in SHOWN.items():
        named = [[f"display_name:{mark}{name}{mark}" for mark in "`'\""] for name in names.values()]
        (found,) = [text for text in files if all(any(n in text for n in marks) for marks in named)]
        assert re.search(r"[а-я]{5}" if language == "ru" else r"[\u4e00-\u9fff]{5}", found)


def test_pages_link_to_nothing(nodes):
    """The panel opens inside ComfyUI, where paths of this repository lead nowhere."""
    for each in pages(nodes):
        assert not re.search(r"\]\(|https?:", page(*each)), each


# ---- what the front end adds -------------------------------------------------------------------


def test_the_widgets_on_nodes_are_the_ones_known_here():
    files = {path.name: path.read_text(encoding="utf-8") for path in DOCS.parent.glob("*.js")}
    attached = re.findall(r"(MultiIPAdapter_\w+): attach", files["multi_ipadapter.js"])
    assert set(attached) == set(ON_THE_NODE)
    source = "".join(files.values())
    labels = {label for labels in ON_THE_NODE.values() for label in labels}
    assert {label for label in labels if f'"{label}"' not in source} == set()


@pytest.mark.parametrize("node_id", ON_THE_NODE)
def test_pages_explain_what_is_on_the_node(node_id):
    shown = {"en": "node", "ru": "ноде|нода", "zh": "节点"}
    for language in LANGUAGES:
        intro = page(node_id, language).partition("\n## ")[0].lower()
        assert re.search(shown[language], intro), language
        missing = [label for label in ON_THE_NODE[node_id] if f"`{label.lower()}`" not in intro]
        assert missing == [], language


# ---- other pages -------------------------------------------------------------------------------


def wrong_names(text: str, nodes: dict[str, Documented]) -> list[str]:
    """In a Russian page: «label» (`name`), *Node* (*its English name*) and the table of nodes."""
    texts = {node_id: translation(node_id, "ru") for node_id in nodes}
    labels = {
        (part["name"], slot.name)
        for node_id, node in nodes.items()
        for slot, part in _named(node, texts[node_id])
    }
    pairs = re.findall(r"«([^«»]+)» \(`(\w+)`", text)
    wrong = [f"«{label}» ({name})" for label, name in pairs if (label, name) not in labels]
    titles = {node.name: texts[node_id]["display_name"] for node_id, node in nodes.items()}
    titles |= SHOWN["ru"]
    pairs = re.findall(r"\*([^*\n]+)\* \(\*([^*\n]+)\*\)", text)
    wrong += [f"*{ru}* ({en})" for ru, en in pairs if titles.get(en, ru) != ru]
    known = {title.removesuffix(" (Multi-IPAdapter)") for title in titles.values()}
    table = text.partition("| нода | ")[2].partition("\n\n")[0]
    listed = re.findall(r"\*\*([^*]+)\*\*", "".join(re.findall(r"^\| [^|]+", table, re.MULTILINE)))
    return wrong + [title for title in listed if title not in known]


def _named(node: Documented, texts: dict[str, Any]):
    """(slot, its part of the translation) of what the front end shows under another name."""
    inputs = ((slot, texts["inputs"][name]) for name, slot in node.inputs.items())
    outputs = ((slot, texts["outputs"][str(i)]) for i, slot in enumerate(node.outputs))
    return [(slot, part) for slot, part in (*inputs, *outputs) if "name" in part]


def test_the_russian_readme_names_nodes_and_inputs_as_they_are_shown(nodes):
    text = (ROOT / "README.ru.md").read_text(encoding="utf-8")
    assert wrong_names(text, nodes) == []
    assert len(re.findall(r"» \(`\w+`", text)) >= 5, "else nothing is compared"
    assert "| нода | " in text and "(*Save Image*)" in text


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("«вес (лямбда)» (`weight`)", "«вес» (`weight`)"),
        ("«слои» (`layers`: все)", "«слои» (`layer`: все)"),
        ("*Сохранить изображение* (*Save Image*)", "*Записать изображение* (*Save Image*)"),
        ("*Слово класса* (*Class Word*)", "*Слово* (*Class Word*)"),
        ("| нода | |\n|---|---|\n| **Слово класса** | |", "| нода | |\n|---|---|\n| **Слово** | |"),
    ],
)
def test_a_wrong_name_in_a_russian_page_is_found(right, wrong, nodes):
    assert wrong_names(right, nodes) == []
    assert len(wrong_names(wrong, nodes)) == 1


def test_the_migration_page_knows_the_default_of_the_lora(nodes):
    """IPAdapter_plus has another one."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    default = nodes["MultiIPAdapter_Apply"].inputs["lora_weight"].options["default"]
    assert f"`lora_weight` ({default} here; set 0.6" in text


def test_pages_tell_of_the_block():
    """Its node is found by this name in the search."""
    (path,) = (ROOT / "subgraphs").glob("*.json")
    for name in ("migration", "portraits"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert f"the block *{path.stem}*" in text


def test_the_server_hands_the_pages_out(nodes, server):
    for node_id, language in pages(nodes):
        path = page_path(node_id, language)
        url = f"/extensions/{PACK_NAME}/docs/{path.relative_to(DOCS).as_posix()}"
        assert server.client.get(url) == path.read_bytes()
