"""The pack in ComfyUI's front end, as a user meets it: search, workflows, help, languages."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.demo.server import PACK_NAME

from .browser import front_end  # noqa: F401

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.fixture
def tab(front_end):  # noqa: F811
    """The tab with an empty canvas; nothing must go wrong in it during a test."""
    front_end.empty()
    front_end.errors.clear()
    yield front_end
    assert front_end.errors == []


@pytest.fixture(scope="module")
def names(object_info):
    """What the nodes are called, by id."""
    return {
        node: info["display_name"]
        for node, info in object_info.items()
        if node.startswith("MultiIPAdapter_")
    }


def search(tab, text):
    """Open the search by a double click on the empty canvas, and type."""
    box = tab.page.get_by_role("combobox").or_(tab.page.get_by_role("dialog").locator("input"))
    for _ in range(100):  # it does not open while the canvas is busy
        if box.first.is_visible():
            break
        tab.page.mouse.dblclick(800, 700)
        tab.page.wait_for_timeout(500)
    box.first.fill(text)
    return tab.page.get_by_test_id("result-item")


def test_the_page_loads_without_errors(front_end):  # noqa: F811
    front_end.errors.clear()
    front_end.open()
    front_end.wait("() => LiteGraph.registered_node_types.MultiIPAdapter_Train")
    assert front_end.run("() => app.extensions.some(x => x.name === 'MultiIPAdapter.Widgets')")
    assert front_end.errors == []


def test_what_goes_wrong_in_the_pack_is_heard(front_end):  # noqa: F811
    """By all of these tests, also where it sounds like something of the front end's own."""
    front_end.errors.clear()
    front_end.run(
        """async folder => {
            for (const name of ['userdata.js', 'user.css', 'docs/en.md'])
                await fetch(`/extensions/${folder}/${name}`)
            console.error('graph accessed before initialization of /userdata')
            setTimeout(() => { throw new Error('/en.md and Content Security Policy') })
            await new Promise(done => setTimeout(done, 100))
        }""",
        PACK_NAME,
    )
    assert len(front_end.errors) == 5
    front_end.errors.clear()


def test_all_nodes_are_found_by_the_search(tab, names):
    for name in names.values():
        search(tab, name).filter(has_text=name).first.wait_for()
    tab.shot("search")
    tab.page.keyboard.press("Enter")
    tab.wait("() => app.graph.nodes.length === 1")
    assert tab.run("() => app.graph.nodes[0].type") in names
    tab.page.keyboard.press("Escape")


# Pairs of nodes, each with the bar of its title above.
_OVERLAPS = """() => {
    const boxes = app.graph.nodes.map(({id, pos: [x, y], size: [width, height]}) =>
        ({id, left: x, top: y - LiteGraph.NODE_TITLE_HEIGHT, right: x + width, bottom: y + height}))
    const meet = (a, b) =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
    return boxes.flatMap((a, i) =>
        boxes.slice(i + 1).filter(b => meet(a, b)).map(b => [a.id, b.id]))
}"""
# Height of each note's text, and what of it is seen without scrolling.
_NOTES = """() => app.graph.nodes.filter(node => node.type === 'MarkdownNote').map(node => {
    const {element} = node.widgets[0]
    return [element.firstElementChild.scrollHeight, element.clientHeight]
})"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow_loads_whole_when_it_is_dropped(tab, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    tab.drop(path.stem, workflow)
    types = tab.run("() => app.graph.nodes.map(node => node.type)")
    assert sorted(types) == sorted(node["type"] for node in workflow["nodes"])
    assert (
        tab.run("() => app.graph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types))")
        == []
    )
    expected = json.loads((ROOT / "workflows" / "api" / path.name).read_text(encoding="utf-8"))
    assert core_of(tab.prompt()) == core_of(expected)
    tab.run("async () => await app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    tab.page.wait_for_timeout(500)  # it moves there
    tab.shot(f"workflow_{path.stem}")
    assert tab.run(_OVERLAPS) == [], "also with the sizes that the widgets need"
    tab.look_at("MarkdownNote")
    tab.wait(f"() => ({_NOTES})().every(([whole, seen]) => seen > 0)")
    assert [note for note in tab.run(_NOTES) if note[0] > note[1]] == [], "all of it can be read"


def test_the_template_browser_shows_every_workflow_with_its_picture(tab):
    tab.run("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    try:
        tab.page.get_by_text(PACK_NAME).first.click()
        for path in WORKFLOWS:
            card = tab.page.get_by_test_id(f"template-workflow-{path.stem}")
            card.scroll_into_view_if_needed()
            tab.wait(
                "name => document.querySelector(`[data-testid=template-workflow-${name}] img`)"
                "?.naturalWidth === 640",
                path.stem,
            )
        tab.shot("templates")
        tab.page.get_by_test_id("template-workflow-train_celeba").click()
        tab.wait(
            "() => app.extensionManager.workflow.activeWorkflow.filename.startsWith('train_celeba')"
            " && app.graph.nodes.some(node => node.type === 'MultiIPAdapter_Train')"
        )
    finally:
        tab.page.keyboard.press("Escape")


def core_of(prompt):
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in prompt.items()}


def test_adding_references_grows_the_inputs(tab):
    counts = tab.run(
        """async () => {
            const node = LiteGraph.createNode('MultiIPAdapter_EncodeReferences')
            app.graph.add(node)
            node.pos = [500, 200]
            const slots = () => node.inputs.filter(i => i.name.startsWith('reference_images.'))
            const counts = [slots().length]
            for (let i = 0; i < 4; i++) {
                const picture = LiteGraph.createNode('LoadImage')
                app.graph.add(picture)
                picture.pos = [100, 100 + 400 * i]
                const free = slots().find(slot => slot.link === null)
                picture.connect(0, node, node.inputs.indexOf(free))
                await new Promise(done => setTimeout(done, 100))
                counts.push(slots().length)
            }
            return counts
        }"""
    )
    assert counts == [counts[0], 2, 3, 4, 5], "one input is always free"
    (references,) = (x for x in tab.prompt().values() if "EncodeReferences" in x["class_type"])
    given = [name for name in references["inputs"] if name.startswith("reference_images.")]
    assert given == [f"reference_images.reference_image_{i}" for i in range(4)]
    tab.shot("references")


def test_the_demo_workflow_yields_a_picture(tab, server):
    tab.drop(
        "demo to run", json.loads((ROOT / "workflows" / "demo.json").read_text(encoding="utf-8"))
    )
    tab.press_run()
    tab.wait("() => app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.length")
    address = tab.run("() => app.graph.nodes.find(n => n.type === 'SaveImage').imgs[0].src")
    picture = Image.open(io.BytesIO(server.client.get(address.removeprefix(tab.url))))
    assert min(picture.size) >= 64 and np.asarray(picture).std() > 10, "more than one colour"
    tab.shot("demo")


def test_the_help_pages_open(tab, names):
    for node in names:
        tab.empty()
        tab.run(
            """type => {
                const node = LiteGraph.createNode(type)
                app.graph.add(node)
                node.pos = [400, 200]
                app.canvas.ds.scale = 1
                app.canvas.ds.offset = [0, 0]
                app.canvas.selectNode(node)
            }""",
            node,
        )
        page = (ROOT / "js" / "docs" / f"{node}.md").read_text(encoding="utf-8")
        title, _, rest = page.partition("\n")
        if not tab.page.get_by_role("heading", name="Inputs").first.is_visible():
            tab.page.get_by_test_id("info-button").first.click()
        tab.page.locator("h1", has_text=title.removeprefix("# ")).first.wait_for()
        beginning = re.split(r"[`*\[<\n]", rest.strip())[0].strip()
        assert len(beginning) > 8, "enough to know the page by"
        tab.page.get_by_text(beginning).first.wait_for()
    tab.shot("help")


@pytest.mark.parametrize("language", ["ru", "zh", "en"])
def test_the_nodes_have_names_in_each_language(tab, names, language):
    path = ROOT / "locales" / language / "nodeDefs.json"
    translated = json.loads(path.read_text(encoding="utf-8"))
    expected = names  # English is in the schemas
    if language != "en":
        expected = {node: translated[node]["display_name"] for node in names}
    try:
        tab.set("Comfy.Locale", language)
        tab.open()
        tab.empty()
        titles = tab.run(
            "ids => Object.fromEntries(ids.map(id => [id, LiteGraph.createNode(id).title]))",
            list(names),
        )
        assert titles == expected
        name = expected["MultiIPAdapter_Train"]
        search(tab, name).filter(has_text=name).first.wait_for()
        tab.shot(f"language_{language}")
        tab.page.keyboard.press("Escape")
    finally:
        tab.set("Comfy.Locale", "en")  # of the pages that are loaded from now on


# ---- what is left behind -----------------------------------------------------------------------

# The timers of the pack's widgets, and the ears of its charts, from now on.
_COUNT = """() => {
    const [set, clear] = [window.setInterval, window.clearInterval]
    window.timers = new Set()
    window.setInterval = (call, ms, ...rest) => {
        const id = set(call, ms, ...rest)
        if (ms === 250 && new Error().stack.includes('watch_node.js')) timers.add(id)
        return id
    }
    window.clearInterval = id => { timers.delete(id); clear(id) }
    const {api} = window.comfyAPI.api
    const [add, remove] = [api.addEventListener.bind(api), api.removeEventListener.bind(api)]
    window.ears = new Set()
    api.addEventListener = (event, ear, ...rest) => {
        if (event === 'multi_ipadapter.training') ears.add(ear)
        return add(event, ear, ...rest)
    }
    api.removeEventListener = (event, ear, ...rest) => {
        ears.delete(ear)
        return remove(event, ear, ...rest)
    }
}"""


@pytest.fixture
def counted(tab):
    """The tab, which counts; loaded again afterwards."""
    tab.run(_COUNT)
    yield tab
    tab.open()


def test_a_block_that_is_gone_leaves_no_timer(counted):
    (file,) = (ROOT / "subgraphs").glob("*.json")
    block = json.loads(file.read_text(encoding="utf-8"))
    for _ in range(2):
        counted.run("block => app.loadGraphData(block)", block)
        counted.wait("() => timers.size === 1")
        counted.page.wait_for_timeout(3000)
        assert counted.run("() => timers.size") == 1, "it looks as long as the block is there"
        counted.run("() => app.loadGraphData({nodes: [], links: [], version: 0.4})")
        counted.wait("() => timers.size === 0")


def test_only_charts_in_the_graph_listen(counted):
    counted.run("() => { window.made = LiteGraph.createNode('MultiIPAdapter_Train') }")
    assert counted.run("() => ears.size") == 0, "a copy that nobody has put down"
    for _ in range(2):
        counted.run("() => app.graph.add(made)")
        assert counted.run("() => ears.size") == 1
        counted.run("() => app.graph.remove(made)")
        assert counted.run("() => ears.size") == 0
