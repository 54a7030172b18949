"""The pack in ComfyUI's front end, as a user meets it: search, workflows, help, languages."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from multi_ipadapter.demo.server import PACK_NAME
from multi_ipadapter.demo.verdict import verdicts
from multi_ipadapter.demo_world.people import WANTED

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
    """This test comes first, so that the errors are those of the fixture's loading the page."""
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
    tab.sizes()
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
    """Classes and inputs; v0.18.2's front end sends what *Preview as Text* shows along."""
    return {
        node: (
            entry["class_type"],
            {k: v for k, v in entry["inputs"].items() if not k.startswith("preview")},
        )
        for node, entry in prompt.items()
    }


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


# Which of the saved pictures the node shows.
_SAVED = """() => {
    const shown = app.graph.nodes.find(node => node.type === 'SaveImage').imgs?.[0]
    return shown ? new URL(shown.src).search : ''
}"""


def run_and_save(tab, server):
    """Queue what is on the canvas; the picture that it saves."""
    before = tab.run(_SAVED)
    tab.press_run()
    tab.wait(f"before => !['', before].includes(({_SAVED})())", before)
    query = dict(parse_qsl(tab.run(_SAVED)[1:]))
    return Image.open(io.BytesIO(server.client.get("/view", **query))).convert("RGB")


def test_the_demo_workflow_yields_a_picture_of_the_person(tab, server):
    """As the scorer sees it, who knows neither the adapter nor the models that draw."""
    tab.drop(
        "demo to run", json.loads((ROOT / "workflows" / "demo.json").read_text(encoding="utf-8"))
    )
    with_references = run_and_save(tab, server)
    tab.shot("demo")
    tab.run(
        """() => {
            const apply = app.graph.nodes.find(node => node.type === 'MultiIPAdapter_Apply')
            apply.widgets.find(widget => widget.name === 'weight').value = 0
        }"""
    )
    without = run_and_save(tab, server)
    types = {node["class_type"]: node["inputs"] for node in tab.prompt().values()}
    asked = types["MultiIPAdapter_DemoReferences"]
    noise = Image.frombytes("RGB", (128, 128), random.Random(0).randbytes(128 * 128 * 3))
    pictures = (with_references, without, noise, Image.new("RGB", (128, 128), "grey"))
    said = verdicts(pictures, asked["identity"], WANTED + asked["wanted_view"])
    verdict = re.compile(r"(\d+) of (\d+) visible attributes right, similarity (-?[\d.]+)")
    numbers = (map(float, verdict.fullmatch(text).groups()) for text in said)
    (right, *of_others), (seen, *_), (similarity, *to_others) = zip(*numbers, strict=True)
    assert similarity > max(to_others) and right > max(of_others), said
    assert right >= seen / 2, said


# ---- help and languages ------------------------------------------------------------------------


def open_help(tab, node, page):
    """Select a node and open its help, until the page's title and its first words are seen."""
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
    title, _, rest = page.partition("\n")
    heading = tab.page.locator("h1", has_text=title.removeprefix("# ")).first
    # The button also closes the panel, which may be on its way open since the page was loaded.
    for seconds in (1, 5, 20, 60):
        try:
            heading.wait_for(timeout=1000 * seconds)
            break
        except TimeoutError:
            tab.page.get_by_test_id("info-button").first.click()
    heading.wait_for()
    beginning = re.split(r"[`*\[<\n]", rest.strip())[0].strip()
    assert len(beginning) > 8, "enough to know the page by"
    tab.page.get_by_text(beginning).first.wait_for()


def test_the_help_pages_open(tab, names):
    for node in names:
        open_help(tab, node, (ROOT / "js" / "docs" / f"{node}.md").read_text(encoding="utf-8"))
    tab.shot("help")


def test_each_language_has_its_names_and_its_help(tab, names):
    """One after the other in the same tab, so that each one takes the place of another."""
    node = "MultiIPAdapter_Train"
    try:
        for language, page in (("ru", f"{node}/ru"), ("zh", f"{node}/zh"), ("en", node)):
            path = ROOT / "locales" / language / "nodeDefs.json"
            translated = json.loads(path.read_text(encoding="utf-8"))
            expected = names  # English is in the schemas
            if language != "en":
                expected = {name: translated[name]["display_name"] for name in names}
            tab.set("Comfy.Locale", language)
            tab.open()
            tab.empty()
            titles = tab.run(
                "ids => Object.fromEntries(ids.map(id => [id, LiteGraph.createNode(id).title]))",
                list(names),
            )
            assert titles == expected
            search(tab, expected[node]).filter(has_text=expected[node]).first.wait_for()
            tab.shot(f"language_{language}")
            tab.page.keyboard.press("Escape")
            open_help(tab, node, (ROOT / "js" / "docs" / f"{page}.md").read_text(encoding="utf-8"))
            tab.shot(f"help_{language}")
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


@pytest.fixture(scope="module")
def _counting(front_end):  # noqa: F811
    front_end.run(_COUNT)


@pytest.fixture
def counted(_counting, tab):
    """The tab, which counts until it is closed at the end of the module."""
    return tab


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
        counted.run("() => { app.graph.add(made) }")
        assert counted.run("() => ears.size") == 1
        counted.run("() => { app.graph.remove(made) }")
        assert counted.run("() => ears.size") == 0
