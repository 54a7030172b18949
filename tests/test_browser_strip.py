"""The strip on 'Encode Reference Images', as someone at the keyboard meets it."""

from __future__ import annotations

import pytest
from PIL import Image

from .browser import THEMES, front_end  # noqa: F401
from .evaluation_world import write_pictures

NAMES = ["000.png", "001.png", "002.png"]
BATCH = 3
STRIP = """() => {
  const cells = [...window.encode_strip().querySelectorAll('li')]
  return cells.map(cell => {
    const [image, input] = [cell.querySelector('img'), cell.querySelector('input')]
    return {source: image?.src ?? '', loaded: image?.naturalWidth ?? 0, weight: input.valueAsNumber,
            shown: cell.querySelector('output').value, disabled: input.disabled}
  })
}"""
BUILD = """async names => {
  app.graph.clear()
  app.graph.id = crypto.randomUUID()  // as each workflow of a user has one
  app.nodeOutputs = {}
  const make = (type, x, y) => {
    const node = LiteGraph.createNode(type)
    node.pos = [x, y]
    app.graph.add(node)
    return node
  }
  window.encode = make('MultiIPAdapter_EncodeReferences', 560, 60)
  const demo = make('MultiIPAdapter_Demo', 60, 60)
  const save = make('MultiIPAdapter_SaveReferences', 960, 60)
  demo.connect(4, encode, 'adapter')
  demo.connect(3, encode, 'clip_vision')
  encode.connect(0, save, 'references')
  const find = name => encode.widgets.find(widget => widget.name == name)
  window.encode_strip = () => find('reference_strip').element
  window.weights = () => find('reference_weights')
  window.slot = i => encode.inputs.findIndex(x => x.name == `reference_images.reference_image_${i}`)
  window.pictures = names.map((name, i) => {
    const load = make('LoadImage', 60 + 230 * i, 420)
    load.widgets.find(w => w.name == 'image').value = name
    return load
  })
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [40, 60]
  for (let i = 0; i < names.length; i++) {
    pictures[i].connect(0, encode, slot(i))
    await new Promise(requestAnimationFrame)
  }
}"""

FIND = """() => {
  const type = 'MultiIPAdapter_EncodeReferences'
  window.encode = app.graph.nodes.find(node => node.type == type)
}"""


@pytest.fixture(scope="module")
def pictures(server):
    """Single ones, and all of them as an animation, which Load Image reads as one batch."""
    folder = write_pictures(server.base / "input", BATCH, seed=11, size=(64, 80))
    first, *rest = [Image.open(folder / name) for name in NAMES]
    first.save(folder / "batch.png", save_all=True, append_images=rest)


@pytest.fixture
def strip(pictures, front_end):  # noqa: F811
    """Two pictures connected; nothing must go wrong in the tab during a test."""
    front_end.errors.clear()
    build(front_end, NAMES[:2])
    yield front_end
    assert front_end.errors == []


def build(tab, names):
    tab.run(BUILD, names)
    wait_for_cells(tab, len(names))


def wait_for_cells(tab, count):
    tab.wait(f"({STRIP})().length == {count} && ({STRIP})().every(c => c.loaded > 0)")


def settle(tab):
    """Until the strip has looked at the graph some times more."""
    tab.run("() => new Promise(done => setTimeout(done, 1000))")


def weights(tab):
    return tab.run("() => weights().value")


def inputs(tab):
    """What of the node 'Run' would send."""
    return tab.prompt()[str(tab.run("() => encode.id"))]["inputs"]


def sliders(tab):
    return [(cell["weight"], cell["shown"]) for cell in tab.run(STRIP)]


def test_thumbnails_of_the_connected_pictures(strip):
    cells = strip.run(STRIP)
    assert [NAMES[i] in cell["source"] for i, cell in enumerate(cells)] == [True, True]
    assert sliders(strip) == [(1, "1"), (1, "1")]
    height = strip.run("() => encode_strip().offsetHeight")
    strip.run(
        """name => {
            pictures[0].widgets.find(w => w.name == 'image').value = name
            pictures[1].connect(0, encode, slot(2))
        }""",
        NAMES[2],
    )
    wait_for_cells(strip, 3)
    strip.wait(f"({STRIP})()[0].source.includes('{NAMES[2]}')")
    assert NAMES[1] in strip.run(STRIP)[2]["source"]
    assert strip.run("() => encode_strip().offsetHeight") == height
    strip.shot("strip")


def test_a_slider_writes_the_weights(strip):
    second = strip.page.get_by_label("Weight of reference 2, 001.png")
    second.focus()
    for _ in range(4):
        strip.page.keyboard.press("ArrowLeft")
    assert weights(strip) == "1, 0.8"
    assert sliders(strip) == [(1, "1"), (0.8, "0.8")]
    box = strip.page.get_by_label("Weight of reference 1, 000.png").bounding_box()
    strip.page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert weights(strip) == "2, 0.8"
    strip.page.get_by_role("button", name="Let all references weigh the same").click()
    assert weights(strip) == "" and sliders(strip) == [(1, "1"), (1, "1")]


def heavy(tab):
    """The first slider, of a weight above those that it shows by itself."""
    tab.run("() => { weights().value = '3, 1' }")
    tab.wait(f"({STRIP})()[0].weight == 3")
    return tab.page.get_by_label("Weight of reference 1, 000.png")


def test_keys_lower_a_large_weight_and_raise_it_again(strip):
    slider = heavy(strip)
    slider.press("ArrowLeft")
    assert weights(strip) == "2.95, 1"
    slider.press("ArrowRight")
    assert weights(strip) == "3, 1"
    slider.press("Home")
    slider.evaluate("slider => slider.blur()")
    assert slider.get_attribute("max") == "2", "the scale is the usual one again"


def test_the_mouse_lowers_a_large_weight_and_raises_it_again(strip):
    box = heavy(strip).bounding_box()
    mouse, height = strip.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] - 3, height)
    mouse.down()
    seen = []
    for share in (0.75, 0.5, 0.25):
        mouse.move(box["x"] + box["width"] * share, height)
        seen.append(strip.run(STRIP)[0]["weight"])
    mouse.move(box["x"] + box["width"] + 20, height)
    mouse.up()
    first, second, third = seen
    assert first - second == pytest.approx(second - third, abs=0.1), "the scale stays"
    assert weights(strip) == "3, 1"


@pytest.mark.parametrize("key", ["Backspace", "Delete"])
def test_keys_in_the_strip_delete_no_node(strip, key):
    strip.run("() => app.canvas.selectNode(encode)")
    strip.page.get_by_label("Weight of reference 2, 001.png").press("ArrowLeft")
    for place in ("input", "button"):
        strip.page.locator(f".mip-strip {place}").last.press(key)
    strip.page.evaluate("() => new Promise(requestAnimationFrame)")
    assert strip.run("() => encode.graph?.getNodeById(encode.id) === encode")


def test_what_the_strip_writes_can_be_undone(strip):
    strip.run("() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange() }")
    strip.page.get_by_label("Weight of reference 2, 001.png").focus()
    strip.page.keyboard.press("Home")
    strip.page.get_by_role("button", name="Let all references weigh the same").click()
    assert weights(strip) == ""
    undo(strip)
    assert weights(strip) == "1, 0.05"
    undo(strip)
    assert weights(strip) == ""
    wait_for_cells(strip, 2)


def undo(tab):
    """As Ctrl+Z does; ComfyUI then builds the graph anew."""
    tab.run("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    tab.run(FIND)


def test_only_the_text_is_sent_and_saved(strip):
    strip.page.get_by_label("Weight of reference 2, 001.png").fill("0.5")
    sent = inputs(strip)
    assert sent["reference_weights"] == "1, 0.5"
    assert set(sent) == {
        "adapter",
        "clip_vision",
        "reference_images.reference_image_0",
        "reference_images.reference_image_1",
        "reference_weights",
        "fit",
        "face_embeddings",
    }
    saved = strip.run("() => app.graph.serialize()")
    (node,) = [n for n in saved["nodes"] if n["type"] == "MultiIPAdapter_EncodeReferences"]
    assert node["widgets_values"] == ["1, 0.5", "crop", "each"]


def test_a_saved_workflow_comes_back(strip):
    strip.page.get_by_label("Weight of reference 2, 001.png").fill("0.5")
    strip.run("async () => await app.loadGraphData(app.graph.serialize(), true, true)")
    strip.run(FIND)
    wait_for_cells(strip, 2)
    settle(strip)
    assert weights(strip) == "1, 0.5" and sliders(strip) == [(1, "1"), (0.5, "0.5")]


def test_weights_follow_the_references(strip):
    build(strip, NAMES)
    strip.run("() => { weights().value = '1, 0.5, 3' }")
    settle(strip)
    assert sliders(strip) == [(1, "1"), (0.5, "0.5"), (3, "3")]
    strip.run("() => encode.disconnectInput(slot(1))")
    strip.wait("weights().value == '1, 3'")
    assert [NAMES[i] in strip.run(STRIP)[k]["source"] for k, i in enumerate((0, 2))] == [True] * 2
    strip.run("() => pictures[1].connect(0, encode, slot(2))")  # it weighs what it did before
    strip.wait("weights().value == '1, 3, 0.5'")


@pytest.mark.parametrize("mode", [2, 4], ids=["muted", "bypassed"])
def test_what_is_switched_off_is_no_reference(strip, mode):
    strip.run("() => { weights().value = '2, 0.5' }")
    settle(strip)
    strip.run("mode => { pictures[0].mode = mode }", mode)
    strip.wait("weights().value == '0.5'")
    assert [NAMES[1] in cell["source"] for cell in strip.run(STRIP)] == [True]
    assert "reference_images.reference_image_0" not in inputs(strip)
    strip.run("() => { pictures[0].mode = 0 }")
    strip.wait("weights().value == '2, 0.5'")


def test_a_reroute_shows_what_it_passes_on(strip):
    strip.run(
        """() => {
            const reroute = LiteGraph.createNode('Reroute')
            app.graph.add(reroute)
            pictures[0].connect(0, reroute, 0)
            reroute.connect(0, encode, slot(2))
        }"""
    )
    wait_for_cells(strip, 3)
    assert NAMES[0] in strip.run(STRIP)[2]["source"]


@pytest.mark.parametrize("text", ["1", "1, 0.5, 2", "much", "1, -1", "0, 1", "1, 1e99"])
def test_wrong_weights_are_told_and_left_alone(strip, text):
    strip.run("text => { weights().value = text }", text)
    strip.wait("encode_strip().querySelector('.mip-problem')?.textContent")
    settle(strip)
    assert weights(strip) == text
    strip.page.get_by_label("Weight of reference 2, 001.png").fill("0.5")
    assert weights(strip) == "1, 0.5"
    assert strip.run("() => encode_strip().querySelector('.mip-problem')") is None


def test_weights_from_a_wire_cannot_be_moved(strip):
    strip.run(
        """() => {
            const text = LiteGraph.createNode('PrimitiveString')
            app.graph.add(text)
            text.connect(0, encode, 'reference_weights')
        }"""
    )
    strip.wait(f"({STRIP})().every(cell => cell.disabled)")


def test_typing_moves_the_sliders(strip):
    """In ComfyUI's other way to draw nodes, where the text is an input on the page."""
    strip.set("Comfy.VueNodes.Enabled", True)
    try:
        strip.open()
        strip.wait("() => app.graph.nodes.length > 0")  # what was there comes back by itself
        build(strip, NAMES[:2])
        strip.page.keyboard.press("Shift")  # ComfyUI looks for changes when a key is let go
        strip.shot("strip_vue")
        strip.page.get_by_label("reference_weights", exact=True).fill("0.3; 1.5")
        strip.wait(f"({STRIP})().map(cell => cell.shown).join() == '0.3,1.5'")
        assert sliders(strip) == [(0.3, "0.3"), (1.5, "1.5")]
        assert inputs(strip)["reference_weights"] == "0.3; 1.5"
        strip.page.get_by_label("Weight of reference 1, 000.png").press("ArrowRight")
        assert weights(strip) == "0.35, 1.5"
        undo(strip)
        strip.wait("() => encode_strip().isConnected")  # not that of the node before
        assert strip.errors == []
    finally:
        strip.set("Comfy.VueNodes.Enabled", False)
        strip.open()
        strip.errors.clear()


@pytest.mark.parametrize("theme", THEMES)
def test_everything_is_readable_in_each_theme(strip, theme):
    try:
        strip.switch_theme(theme)
        strip.run("() => { weights().value = '1, 0.5' }")
        strip.wait("() => encode_strip().querySelector('button:enabled')")
        found = strip.contrasts(".mip-strip")
        strip.shot(f"strip_{theme}")
        strip.run("() => { weights().value = 'much' }")
        strip.wait("() => encode_strip().querySelector('.mip-problem')?.textContent")
        found += strip.contrasts(".mip-strip")
        strip.run("() => pictures.forEach(node => app.graph.remove(node))")
        strip.wait(f"({STRIP})().length == 0")
        found += strip.contrasts(".mip-strip")
        texts = {text for text, *_ in found}
        assert {"1", "2", "0.5", "Reset", "2 references, weighted"} <= texts
        assert any("Weights must be" in t for t in texts) and any("Connect" in t for t in texts)
        assert [entry for entry in found if entry[2] < entry[1]] == []
    finally:
        strip.switch_theme("dark")
