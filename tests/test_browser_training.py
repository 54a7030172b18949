"""The Train node's live chart in ComfyUI's front end, on real training of the demo models."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from .browser import PATIENCE, THEMES, front_end, stop_running  # noqa: F401
from .people import settings_with, write_people
from .test_train_server import steps_in, training_graph

TRAIN = "MultiIPAdapter_Train"
RUN = "charted_live"
STOP = "Stop, and keep what was learned"
# Far more steps than a test waits for, with one validation; the chart is told of each second step.
LONG = {"steps": 100_000, "settings": settings_with(log_every=2, validate_every=9999, previews=1)}
NEWEST = "() => Number(document.querySelector('.mip-chart')?.getAttribute('aria-valuenow'))"
# All that a test compares comes from one look at the page, because it is drawn anew all the time.
_CURVES = """() => [...document.querySelectorAll('.mip-chart path:not([transform])')].map(
    path => path.getAttribute('d').split('L').length)"""
_HEIGHTS = """type => [
    app.graph.nodes.find(node => node.type === type).size[1],
    document.querySelector('.mip-training').getBoundingClientRect().height,
]"""


@pytest.fixture(scope="module")
def people(server):
    write_people(server.base / "input" / "charted")
    return "charted"


@pytest.fixture(scope="module")
def run(server, people):
    """A finished run of 6 steps, validated at 0 and 6."""
    settings = settings_with(log_every=2, validate_every=6, previews=1)
    server.client.run(training_graph(people, "done", steps=6, settings=settings))
    return "done"


@pytest.fixture
def tab(front_end):  # noqa: F811
    """The tab; nothing must go wrong in it during a test."""
    front_end.errors.clear()
    yield front_end
    assert front_end.errors == []


@pytest.fixture
def nothing_left(server):
    """A run that a failed test leaves behind must not keep the server busy."""
    yield
    stop_running(server.client)


@pytest.fixture
def chart(tab, run, people):
    """The tab, with the finished run on a Train node."""
    tab.empty()
    tab.run(
        """name => {
            const node = LiteGraph.createNode('MultiIPAdapter_Train')
            node.widgets.find(widget => widget.name === 'name').value = name
            node.configure(node.serialize())
            node.size[0] = 420
            app.graph.add(node)
        }""",
        run,
    )
    tab.look_at(TRAIN)
    tab.wait(f"() => ({NEWEST})() === 6")
    return tab


def status(tab):
    return tab.page.locator(".mip-training .mip-row").first.inner_text().split("\n")[0]


def curves(tab):
    """The points of each drawn curve, in the order of the drawing."""
    return tab.run(_CURVES)


def heights(tab):
    """Heights of the node and of its chart, in the graph's units."""
    return tab.run(_HEIGHTS, TRAIN)


def press_button(tab, name):
    tab.page.locator(".mip-training").get_by_role("button", name=name).click()


# ---- while a run goes on -----------------------------------------------------------------------


def test_the_chart_follows_a_run_survives_a_reload_and_a_cancel(tab, server, people, nothing_left):
    tab.empty()
    tab.drop(RUN, training_graph(people, RUN, **LONG))
    tab.look_at(TRAIN)
    tab.page.get_by_text(f"No run “{RUN}” yet").wait_for()
    before = heights(tab)
    tab.press_run()
    # Models are loaded, pictures encoded and, before the first step, previews drawn.
    tab.page.locator(".mip-training .sheet img").wait_for(timeout=3 * PATIENCE)
    tab.wait(f"() => ({NEWEST})() >= 4")
    first = tab.run(NEWEST)
    tab.wait(f"step => ({NEWEST})() > step", first)
    assert f"of {LONG['steps']}" in status(tab)
    raw, smooth, *_ = curves(tab)
    assert raw == smooth >= 4
    tab.wait("() => document.querySelector('.mip-training .sheet img').naturalWidth > 500")
    assert heights(tab) == before, "nothing jumps when curves and previews come"
    assert tab.run("type => app.graph.nodes.find(n => n.type === type).imgs", TRAIN) is None
    tab.shot("training")

    reached = tab.run(NEWEST)
    tab.open()
    tab.wait("type => app.graph.nodes.some(n => n.type === type)", TRAIN)
    tab.wait(f"step => ({NEWEST})() >= step", reached)
    raw, smooth, *_ = curves(tab)
    # The chart draws only some of many steps.
    assert raw == smooth >= min(reached, 500), "what was trained before the reload is there again"
    tab.wait(f"step => ({NEWEST})() > step", tab.run(NEWEST))
    tab.look_at(TRAIN)
    tab.shot("training_reloaded")

    ((_, running, *_),) = server.client.get_json("/queue")["queue_running"]
    with tab.page.expect_request("**/interrupt") as asked:
        press_button(tab, STOP)
    assert asked.value.post_data_json == {"prompt_id": running}
    tab.page.get_by_text("Stopped at step").wait_for()
    last = tab.run(NEWEST)
    assert status(tab) == f"Stopped at step {last} of {LONG['steps']}; run again to go on"
    wait_for_adapter(tab, server, last)
    assert heights(tab) == before

    tab.press_run()
    tab.wait(f"step => ({NEWEST})() > step", last)
    tab.press_cancel()
    tab.page.get_by_text("Stopped at step").wait_for()
    assert last < tab.run(NEWEST)
    wait_for_adapter(tab, server, tab.run(NEWEST))
    tab.shot("training_cancelled")


def test_nothing_jumps_in_the_other_way_of_drawing_nodes(tab, people, nothing_left):
    """There the front end would show any picture that comes with the progress a second time."""
    pictures = ".lg-node:has(.mip-training) img"
    high = "() => document.querySelector('.lg-node:has(.mip-training)').offsetHeight"
    try:
        tab.set("Comfy.VueNodes.Enabled", True)
        tab.empty()
        tab.drop("vue_live", training_graph(people, "vue_live", **LONG))
        tab.look_at(TRAIN)
        tab.page.locator(".lg-node").get_by_text("No run “vue_live” yet").wait_for()
        tab.wait(f"() => ({high})() > 400")
        tab.sizes()
        before = tab.run(high)
        tab.press_run()
        tab.page.locator(".lg-node .mip-training .sheet img").wait_for(timeout=3 * PATIENCE)
        tab.wait("() => document.querySelector('.mip-training .sheet img').naturalWidth > 500")
        tab.wait(f"() => ({NEWEST})() >= 4")
        tab.shot("training_vue")
        assert tab.page.locator(pictures).count() == 1, "the chart's own"
        assert tab.run(high) == before
    finally:
        tab.set("Comfy.VueNodes.Enabled", False)
        tab.page.locator(".lg-node").first.wait_for(state="detached")


def wait_for_adapter(tab, server, steps):
    """Until the nodes after training have run, and kept what it learned in so many steps.

    The chart may miss the last few: they are not reported when a step is cut short.
    """
    file = server.base / "models" / "ipadapter" / f"{RUN}.safetensors"
    for _ in range(PATIENCE // 100):
        if file.is_file() and steps_in(file) >= steps:
            return
        tab.page.wait_for_timeout(100)
    raise AssertionError(f"{file.name} was not written, or not again")


# ---- a run that has ended ----------------------------------------------------------------------


def test_the_chart_of_an_earlier_run_is_there_when_its_name_is(chart):
    assert status(chart) == "Finished at step 6 of 6"
    assert curves(chart) == [6, 6, 2, 2, 2, 3], "raw, smoothed, validation, learning rate"
    name = "() => app.graph.nodes[0].widgets.find(widget => widget.name === 'name')"
    chart.run(f"() => {{ const w = ({name})(); w.value = 'other'; w.callback('other') }}")
    chart.page.get_by_text("No run “other” yet").wait_for()
    assert curves(chart) == []
    chart.run(f"() => {{ const w = ({name})(); w.value = 'done'; w.callback('done') }}")
    chart.wait(f"() => ({NEWEST})() === 6")


def test_a_name_that_the_server_refuses_is_explained(chart):
    name = "app.graph.nodes[0].widgets.find(widget => widget.name === 'name')"
    chart.run(f"() => {{ {name}.value = 'people/v2'; {name}.callback('people/v2') }}")
    chart.page.get_by_text("Got the run 'people/v2'; expected a plain file name").wait_for()
    chart.errors[:] = [text for text in chart.errors if "status of 400" not in text]
    chart.run(f"() => {{ {name}.value = 'done'; {name}.callback('done') }}")
    chart.page.get_by_text("Finished at step 6 of 6").wait_for()


@pytest.mark.parametrize("way", ["classic", "vue"])
def test_an_undo_leaves_the_chart_alive(chart, way):
    """ComfyUI then makes the node anew, and its chart has to be the one on the page."""
    try:
        chart.set("Comfy.VueNodes.Enabled", way == "vue")
        chart.wait(f"() => ({NEWEST})() === 6")
        keep = "() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange() }"
        chart.run(keep)
        chart.run("() => { app.graph.nodes[0].title = 'changed' }")
        chart.run(keep)
        old = chart.run("() => { window.before = app.graph.nodes[0]; return before.id }")
        chart.run("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
        chart.wait("() => app.graph.nodes[0] && app.graph.nodes[0] !== window.before")
        assert chart.run("() => app.graph.nodes[0].id") == old
        chart.run(
            """() => {
                const {widgets} = app.graph.nodes[0]
                window.shown = widgets.find(w => w.name === 'training').element
            }"""
        )
        chart.wait("() => shown.isConnected")
        chart.wait("() => shown.querySelectorAll('.curve').length === 5")
        press_button(chart, "LR")
        chart.wait("() => shown.querySelectorAll('.curve').length === 4")
    finally:
        chart.set("Comfy.VueNodes.Enabled", False)


@pytest.mark.parametrize("key", ["Backspace", "Delete"])
def test_keys_in_the_chart_delete_no_node(chart, key):
    chart.run("() => app.canvas.selectNode(app.graph.nodes[0])")
    for place in (".mip-chart", ".legend button >> nth=0"):
        chart.page.locator(f".mip-training {place}").press(key)
    chart.page.evaluate("() => new Promise(requestAnimationFrame)")
    assert chart.run("() => app.graph.nodes.length") == 1
    # Beside the widgets the key does what it always does.
    chart.run("() => app.canvas.canvas.focus()")
    chart.page.keyboard.press(key)
    chart.wait("() => app.graph.nodes.length === 0")


def test_keys_still_edit_text_inside_a_widget(chart):
    chart.run(
        """() => {
            const input = document.createElement('input')
            document.querySelector('.mip-training').append(input)
            input.value = 'abc'
            input.focus()
            input.setSelectionRange(1, 1)
        }"""
    )
    chart.page.keyboard.press("Delete")
    chart.page.keyboard.press("Backspace")
    assert chart.page.locator(".mip-training > input").input_value() == "c"


def test_the_chart_has_a_name(chart):
    assert chart.page.get_by_role("group", name="Training").locator(".mip-chart").count() == 1


def test_the_widget_is_no_part_of_prompts_and_files(chart):
    (entry,) = chart.prompt().values()
    assert "training" not in entry["inputs"] and entry["inputs"]["name"] == "done"
    count = "() => app.graph.nodes[0].widgets.length"
    saved = chart.run("() => app.graph.serialize().nodes[0].widgets_values")
    assert len(saved) == chart.run(count) - 1


def test_curves_are_hidden_and_shown(chart):
    press_button(chart, "loss")
    chart.wait("() => document.querySelectorAll('.mip-chart .curve').length === 4")
    press_button(chart, "LR")
    chart.wait("() => document.querySelectorAll('.mip-chart .curve').length === 3")
    for name in ("loss", "LR"):
        press_button(chart, name)
    chart.wait("() => document.querySelectorAll('.mip-chart .curve').length === 5")


def test_keys_read_the_curves(chart):
    plot = chart.page.locator(".mip-chart")
    plot.focus()
    chart.page.keyboard.press("Home")
    chart.wait(f"() => ({NEWEST})() === 0")
    chart.page.keyboard.press("ArrowRight")
    chart.wait(f"() => ({NEWEST})() === 1")
    text = plot.get_attribute("aria-valuetext")
    assert text.startswith("step 1: loss ") and "learning rate –" in text
    assert chart.page.locator(".mip-chart .cursor").count() == 1
    chart.page.keyboard.press("Escape")
    chart.wait(f"() => ({NEWEST})() === 6")
    chart.page.keyboard.press("Tab")
    focus = "() => document.activeElement.closest('.mip-training .legend') !== null"
    assert chart.run(focus), "the next stop is the legend"


def test_previews_are_turned_and_enlarged_by_keys(chart):
    picture = "() => document.querySelector('.mip-training .sheet img').src"
    newest = chart.run(picture)
    assert "preview-00000006.png" in newest
    chart.page.locator(".mip-training").get_by_label("Earlier preview").focus()
    chart.page.keyboard.press("Enter")
    chart.wait(f"() => ({picture})().includes('preview-00000000.png')")
    chart.page.locator(".mip-training").get_by_label("Enlarge the preview").focus()
    chart.page.keyboard.press("Enter")
    dialog = chart.page.locator("dialog.mip")
    dialog.get_by_text("done, step 0").wait_for()
    chart.page.keyboard.press("ArrowRight")
    dialog.get_by_text("done, step 6").wait_for()
    chart.wait("() => document.querySelector('dialog.mip img').naturalWidth > 500")
    chart.shot("preview_enlarged")
    chart.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_the_chart_is_kept_as_png_and_csv(chart):
    with chart.page.expect_download() as kept:
        press_button(chart, "Save the chart as a picture")
    assert kept.value.suggested_filename == "done-training.png"
    pixels = np.asarray(Image.open(kept.value.path()).convert("RGB"))
    assert pixels.shape == (1080, 1920, 3)
    seen = {tuple(colour) for colour in pixels[::2, ::2].reshape(-1, 3).tolist()}
    for name in ("--mip-accent", "--mip-good", "--mip-warm", "--mip-odd"):
        assert colour_of(chart, name) in seen, f"a curve in {name}"
    with chart.page.expect_download() as kept:
        press_button(chart, "Save all numbers as a table")
    assert kept.value.suggested_filename == "done-training.csv"
    rows = list(csv.DictReader(io.StringIO(kept.value.path().read_text())))
    assert [row["step"] for row in rows] == [str(step) for step in range(7)]
    assert all(float(row["loss"]) > 0 for row in rows[1:])


def colour_of(tab, name):
    """(red, green, blue) of one of the widgets' colours."""
    script = (
        "name => getComputedStyle(document.querySelector('.mip-training')).getPropertyValue(name)"
    )
    value = tab.run(script, name).strip().removeprefix("#")
    return tuple(int(value[i : i + 2], 16) for i in (0, 2, 4))


@pytest.mark.parametrize("theme", THEMES)
def test_everything_is_readable_in_each_theme(chart, theme):
    try:
        chart.switch_theme(theme)
        press_button(chart, "LR")  # what is hidden has a name too
        found = chart.contrasts(".mip-training")
        assert len(found) > 20
        assert [entry for entry in found if entry[2] < entry[1]] == []
        chart.shot(f"chart_{theme}")
    finally:
        chart.switch_theme("dark")


def test_the_chart_works_in_the_other_way_of_drawing_nodes(chart):
    try:
        chart.set("Comfy.VueNodes.Enabled", True)
        chart.page.locator(".lg-node .mip-training .mip-chart .curve").first.wait_for()
        chart.wait(f"() => ({NEWEST})() === 6")
        chart.wait("() => document.querySelector('.mip-training').offsetHeight > 400")
        chart.shot("chart_vue")
    finally:
        chart.set("Comfy.VueNodes.Enabled", False)
        chart.page.locator(".lg-node").first.wait_for(state="detached")


def test_the_stop_button_leaves_other_graphs_alone(chart, server, people, nothing_left):
    """Though their trainer has the same name of a node, and this run is believed to go on."""
    # The last of these tests: the server knows how a run ended until another begins.
    other = server.client.submit(training_graph(people, "other", **LONG))
    status = {"run": "done", "node": "train", "phase": "training", "step": 6, "steps": 9}
    chart.run(
        "status => window.comfyAPI.api.api.dispatchCustomEvent("
        "'multi_ipadapter.training', {status})",
        status,
    )
    chart.page.locator(".mip-training").get_by_role("button", name=STOP, disabled=False).wait_for()
    asked = []
    chart.page.on("request", lambda request: asked.append(request.url))
    press_button(chart, STOP)
    chart.page.locator(".mip-training").get_by_role("button", name=STOP, disabled=False).wait_for()
    assert [url for url in asked if "interrupt" in url] == []
    ((_, running, *_),) = server.client.get_json("/queue")["queue_running"]
    assert running == other
