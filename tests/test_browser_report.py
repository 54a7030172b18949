"""The report on the evaluation nodes, as someone at the keyboard meets it."""

from __future__ import annotations

import pytest
from transformers import CLIPModel

from .browser import THEMES, front_end  # noqa: F401
from .evaluation_world import write_pictures
from .network_files import randomise
from .reports import read_report
from .test_transformer_networks import clip_config

METRICS = {"cmmd": "lower", "image_alignment": "higher", "text_alignment": "higher"}
COUNT = 6
BUILD = """types => {
  app.graph.clear()
  app.nodeOutputs = {}
  window.nodes = types.map((type, i) => {
    const node = LiteGraph.createNode(type)
    node.pos = [60 + 460 * i, 60]
    node.size = [440, 600]
    app.graph.add(node)
    return node
  })
  app.canvas.ds.scale = 0.9
  app.canvas.ds.offset = [40, 40]
}"""
TABLE = """number => {
  const viewer = nodes[number].widgets.find(w => w.name == 'report_viewer').element
  return [...viewer.querySelectorAll('tbody tr')].map(
    row => [...row.cells].map(cell => cell.textContent))
}"""
SWEPT = {
    "report": "",
    "conditions": {"weight": 0.5},
    "metric": "fid",
    "value": 12.5,
    "low": 11.0,
    "high": 14.0,
    "std": None,
    "n": 60,
    "better": "lower",
    "reason": "",
}


@pytest.fixture(scope="module")
def world(server):
    """Pictures and a network for the server; its base directory."""
    base = server.base
    for place, seed in (("output/drawn", 1), ("input/photos", 2), ("input/model", 3)):
        write_pictures(base / place, COUNT, seed, size=(48, 40))
    network = base / "models" / "metrics" / "clip-vit-base-patch32"
    randomise(CLIPModel(clip_config())).save_pretrained(network)
    return base


@pytest.fixture
def tab(front_end):  # noqa: F811
    """Nothing must go wrong in it during a test."""
    front_end.errors.clear()
    yield front_end
    assert front_end.errors == []


def put(tab, *names):
    """These nodes and no others; the test's `nodes` on the page."""
    tab.run(BUILD, [f"MultiIPAdapter_{name}" for name in names])


def show(tab, *rows, **more):
    """As the server does at the end of a run."""
    output = {"report": [[SWEPT | row for row in rows]], "figures": [], **more}
    tab.run("output => nodes[0].onExecuted(output)", output)


def column(tab, number, node=0):
    return [row[number] for row in tab.run(TABLE, node)]


def heading(tab, name):
    button = tab.page.get_by_title(f"Sort by {name}", exact=True)
    return tab.page.get_by_role("columnheader").filter(has=button)


def test_a_run_shows_its_report(tab, world):
    put(tab, "Evaluate", "Report")
    tab.run(
        """metrics => {
            nodes[0].connect(0, nodes[1], 'reports.report_0')
            const given = {generated: 'drawn', real: 'photos', references: 'model',
                           prompt: 'a person', metrics, name: 'shown'}
            for (const [name, value] of Object.entries(given))
                nodes[0].widgets.find(widget => widget.name == name).value = value
            nodes[1].widgets.find(widget => widget.name == 'pictures').value = 'drawn'
        }""",
        ", ".join(METRICS),
    )
    sizes = tab.sizes()
    tab.press_run()
    tab.wait(f"() => ({TABLE})(0).length == 3 && ({TABLE})(1).length == 3")
    report = read_report(world / "output" / "evaluation" / "shown.json")
    for node in (0, 1):
        rows = tab.run(TABLE, node)
        assert [(row[0], row[4].split()[-1]) for row in rows] == list(METRICS.items())
        assert {row[3] for row in rows} == {str(COUNT)}
        for row in rows:
            value = report.points[0].values[row[0]]
            assert float(row[1]) == pytest.approx(value.value, rel=1e-2, abs=1e-6)
            if value.low is not None:
                interval = [float(end) for end in row[2].split(" – ")]
                assert interval == pytest.approx([value.low, value.high], rel=1e-2, abs=1e-6)
    assert tab.page.get_by_text(f"{len(report.warnings)} warning").count() == 2
    assert tab.sizes() == sizes
    enlarge(tab, tab.page.get_by_role("button", name="Enlarge best"))
    tab.shot("report")


def enlarge(tab, figure):
    """Open it, look, and close it from the keyboard."""
    figure.click()
    dialog = tab.page.get_by_role("dialog", name="Picture")
    dialog.wait_for()
    tab.wait("() => document.querySelector('dialog.mip img').naturalWidth > 300")
    tab.shot("figure")
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert figure.evaluate("button => button === document.activeElement")


def test_columns_sort(tab):
    put(tab, "Evaluate")
    values = [3.5, 20.0, None, 0.00002, -1.0]
    show(tab, *({"value": value, "n": i} for i, value in enumerate(values)))
    given = ["3.5", "20", "–", "2.00e-5", "-1"]
    assert column(tab, 2) == given
    head = heading(tab, "value")
    head.get_by_role("button").click()
    assert column(tab, 2) == ["-1", "2.00e-5", "3.5", "20", "–"]
    assert head.get_attribute("aria-sort") == "ascending"
    tab.page.keyboard.press("Enter")  # the heading has the focus
    assert column(tab, 2) == ["20", "3.5", "2.00e-5", "-1", "–"]
    assert head.get_attribute("aria-sort") == "descending"
    tab.page.keyboard.press("Enter")
    assert column(tab, 2) == given and head.get_attribute("aria-sort") == "none"
    heading(tab, "n").get_by_role("button").click()
    tab.page.keyboard.press("Enter")
    assert column(tab, 4) == ["4", "3", "2", "1", "0"]
    show(tab, {"n": 7}, {"n": 8})  # another run is sorted alike
    assert column(tab, 4) == ["8", "7"]


def test_conditions_and_reports_have_columns(tab):
    put(tab, "Report")
    rows = [
        {"report": name, "conditions": {"weight": weight, "references": 2}}
        for name in ("ours", "theirs")
        for weight in (0.5, 10)
    ]
    show(tab, *rows)
    heads = tab.page.get_by_role("columnheader").all_inner_texts()
    assert [head.strip(" ↕") for head in heads] == [
        *("report", "weight", "references", "metric", "value", "interval", "n", "better")
    ]
    assert tab.run(TABLE, 0)[1] == [*("ours", "10", "2", "fid", "12.5", "11 – 14", "60", "↓ lower")]
    heading(tab, "weight").get_by_role("button").click()
    assert column(tab, 1) == ["0.5", "0.5", "10", "10"]


def test_conditions_named_like_other_columns_sort_by_themselves(tab):
    put(tab, "Evaluate")
    given = [(1, 30), (3, 10), (2, 20)]
    others = {"value": 0, "metric": "x"}
    show(tab, *({"conditions": {"n": mine, **others}, "n": n} for mine, n in given))
    heads = [head.strip(" ↕") for head in tab.page.get_by_role("columnheader").all_inner_texts()]
    mine, own = [i for i, head in enumerate(heads) if head == "n"]
    both = [tab.page.get_by_role("columnheader").nth(i) for i in (mine, own)]
    both[1].get_by_role("button").click()
    assert column(tab, own) == ["10", "20", "30"]
    assert [head.get_attribute("aria-sort") for head in both] == ["none", "ascending"]
    both[0].get_by_role("button").click()
    assert column(tab, mine) == ["1", "2", "3"]
    assert [head.get_attribute("aria-sort") for head in both] == ["ascending", "none"]


@pytest.mark.parametrize("key", ["Backspace", "Delete"])
def test_keys_in_the_report_delete_no_node(tab, key):
    put(tab, "Evaluate")
    show(tab, {})
    tab.run("() => app.canvas.selectNode(nodes[0])")
    tab.page.get_by_role("region", name="Values").press(key)
    tab.page.evaluate("() => new Promise(requestAnimationFrame)")
    assert tab.run("() => app.graph.nodes.length") == 1


def test_what_has_no_value_says_why_and_warnings_open(tab):
    put(tab, "Evaluate")
    why = "fewer than 50 pictures"
    missing = {"value": None, "low": None, "high": None, "reason": why}
    warnings = ["one <b>thing</b>", "another"]
    show(tab, missing, {"metric": "is", "low": None, "high": None, "std": 0.25}, warnings=warnings)
    assert column(tab, 3) == [why, "± 0.25"]
    summary = tab.page.get_by_text("2 warnings")
    assert not tab.page.get_by_text("another").is_visible()
    summary.focus()
    tab.page.keyboard.press("Enter")
    tab.page.get_by_text("one <b>thing</b>").wait_for()  # text, never markup
    tab.page.get_by_text("another").wait_for()


def test_nothing_of_the_viewer_is_sent_or_saved(tab, object_info):
    names = ("Evaluate", "Report", "Sweep")
    put(tab, *names)
    sent = [entry["inputs"] for entry in tab.prompt().values()]
    saved = tab.run("() => app.graph.serialize().nodes")
    for name, inputs, node in zip(names, sent, saved, strict=True):
        schema = object_info[f"MultiIPAdapter_{name}"]["input"]
        known = {key for group in schema.values() for key in group}
        assert set(inputs) <= known and "report_viewer" not in inputs
        assert len(node["widgets_values"]) == len(inputs)


def test_an_opened_workflow_has_its_results_again(tab):
    put(tab, "Evaluate")
    show(tab, {})
    assert len(tab.run(TABLE, 0)) == 1
    tab.run(
        """async rows => {
            const graph = app.graph.serialize()
            await app.loadGraphData(graph, true, true)
            window.nodes = [...app.graph.nodes]
            app.nodeOutputs = {[nodes[0].id]: {report: [rows], figures: []}}
        }""",
        [SWEPT, SWEPT],
    )
    tab.wait(f"() => ({TABLE})(0).length == 2")


def test_a_report_inside_a_block_comes_back_too(tab):
    """Outputs of nodes in there are known by the block's id and the node's."""
    put(tab, "Evaluate")
    tab.run(
        """async rows => {
            app.graph.convertToSubgraph(new Set([nodes[0]]))
            await app.loadGraphData(app.graph.serialize(), true, true)
            const {subgraph} = app.graph.nodes[0]
            app.canvas.setGraph(subgraph)
            window.nodes = [subgraph.nodes[0]]
            app.nodeOutputs = {[`${subgraph.id}:${nodes[0].id}`]: {report: [rows], figures: []}}
        }""",
        [SWEPT, SWEPT],
    )
    try:
        tab.wait(f"() => ({TABLE})(0).length == 2")
    finally:
        tab.empty()
        tab.open()  # a page that has never been in a block


@pytest.mark.parametrize("theme", THEMES)
def test_everything_is_readable_in_each_theme(tab, world, theme):
    picture = {"filename": "000.png", "subfolder": "drawn", "type": "output"}
    missing = {"value": None, "low": None, "high": None, "reason": "fewer than 50 pictures"}
    try:
        tab.switch_theme(theme)
        put(tab, "Evaluate")
        found = tab.contrasts(".mip-report")
        show(tab, {}, missing, warnings=["little"], figures=["best"], images=[picture])
        heading(tab, "value").get_by_role("button").click()
        tab.page.get_by_text("1 warning").click()
        found += tab.contrasts(".mip-report")
        tab.page.locator(".mip-report tbody tr").first.hover()
        found += tab.contrasts(".mip-report")
        tab.shot(f"report_{theme}")
        tab.page.get_by_role("button", name="Enlarge best").click()
        found += tab.contrasts("dialog.mip")
        tab.page.keyboard.press("Escape")
        texts = {text for text, *_ in found}
        assert {"fid", "little", "1 warning", "best", missing["reason"], "✕", "value"} <= texts
        assert any("Results" in text for text in texts)
        assert {"▲", "↕"} <= {text.strip('"') for text in texts}
        assert [entry for entry in found if entry[2] < entry[1]] == []
    finally:
        tab.switch_theme("dark")
