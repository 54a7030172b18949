"""What the strip on 'Encode Reference Images' knows of earlier runs, and for how long."""

from __future__ import annotations

import pytest

from .browser import front_end  # noqa: F401
from .test_browser_strip import (  # noqa: F401
    BATCH,
    FIND,
    NAMES,
    STRIP,
    build,
    pictures,
    settle,
    strip,
    undo,
    wait_for_cells,
    weights,
)


@pytest.fixture
def tab(strip):  # noqa: F811
    """Two pictures are connected in it; nothing must go wrong there during a test."""
    return strip


def keep(tab):
    """As ComfyUI does after each change by the user: one more step to undo."""
    tab.run("() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange() }")


def run(tab):
    """Run what is on the canvas until the strip shows what the run told; the addresses.

    It has to differ from what ran before: ComfyUI tells nothing of what it need not compute.
    """
    keep(tab)
    old = told(tab)
    tab.press_run()
    tab.wait(f"old => ({TOLD})() !== old", old)
    return shown(tab)


TOLD = "() => JSON.stringify(app.nodeOutputs[encode.id] ?? null)"


def told(tab):
    return tab.run(TOLD)


def shown(tab):
    """Addresses of the pictures, once the strip has looked at the graph some times more."""
    settle(tab)
    return [cell["source"] for cell in tab.run(STRIP)]


PICK = "() => { pictures[0].widgets.find(w => w.name == 'image').value = '002.png' }"
SWAP = "() => [1, 0].forEach((i, j) => pictures[i].connect(0, encode, slot(j)))"


def change_and_undo(tab):
    """So that ComfyUI builds the graph anew, with the same in it."""
    tab.run("() => { weights().value = '1, 0.5' }")
    keep(tab)
    undo(tab)


def redo(tab):
    tab.run("() => app.extensionManager.workflow.activeWorkflow.changeTracker.redo()")
    tab.run(FIND)


def test_a_run_shows_the_pictures_of_a_batch(tab):
    build(tab, ["000.png", "batch.png"])
    settle(tab)
    tab.press_run()
    wait_for_cells(tab, 1 + BATCH)
    sources = [cell["source"] for cell in tab.run(STRIP)]
    assert all("type=temp" in source for source in sources)
    assert sources[0] == sources[1]  # the batch begins with the same picture
    assert len(set(sources)) == BATCH
    tab.page.get_by_label("Weight of reference 4, batch.png").fill("1.5")
    assert weights(tab) == "1, 1, 1, 1.5"
    tab.run("() => encode.disconnectInput(slot(0))")
    tab.wait("weights().value == '1, 1, 1.5'")
    assert [cell["source"] for cell in tab.run(STRIP)] == sources[1:]


def test_an_undo_brings_back_the_pictures_of_its_sources(tab):
    """The output that ComfyUI still has is that of the picture that came later."""
    first = run(tab)
    tab.run(PICK)
    second = run(tab)
    assert all("type=temp" in source for source in first + second)
    assert second[0] != first[0] and second[1] == first[1]
    undo(tab)
    assert shown(tab) == first
    redo(tab)
    assert shown(tab) == second


def test_swapped_inputs_keep_their_pictures(tab):
    first = run(tab)
    tab.run(SWAP)
    keep(tab)
    assert shown(tab) == first[::-1]
    change_and_undo(tab)
    assert shown(tab) == first[::-1]
    undo(tab)
    assert shown(tab) == first


def test_another_workflow_has_pictures_of_its_own(tab):
    """Though its nodes have the same ids; and the first has its own again when it is opened."""
    build(tab, NAMES[1:])
    first = run(tab)
    tab.run(
        """async name => {
            const graph = {...app.graph.serialize(), id: crypto.randomUUID()}
            graph.nodes.find(node => node.type == 'LoadImage').widgets_values[0] = name
            await app.loadGraphData(graph, true, true)
        }""",
        NAMES[0],
    )
    tab.run(FIND)
    assert [NAMES[i] in source for i, source in zip((0, 2), shown(tab), strict=True)] == [True] * 2
    tab.run("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    tab.wait("name => app.graph.nodes.every(n => n.widgets?.[0]?.value !== name)", NAMES[0])
    tab.run(FIND)
    assert shown(tab) == first


def test_pictures_that_are_gone_give_way_to_the_files(tab):
    """As they are when ComfyUI is started again; the later ones of a batch to their numbers."""
    build(tab, ["002.png", "batch.png"])
    run(tab)
    wait_for_cells(tab, 1 + BATCH)
    gone = "**/view?*type=temp*"
    tab.page.route(gone, lambda route: route.fulfill(status=404))
    try:
        change_and_undo(tab)
        tab.wait(f"""() => {{
            const cells = ({STRIP})()
            return cells.length === {1 + BATCH} && cells[0].source.includes('002.png')
                && cells[1].source.includes('batch.png')
                && cells.every((cell, i) => !cell.loaded === i > 1)
        }}""")
        numbers = "() => [...encode_strip().querySelectorAll('.mip-broken')].map(image =>"
        numbers += " [image.parentElement.innerText, getComputedStyle(image).visibility])"
        tab.wait(f"() => ({numbers})().length === 2")
        assert tab.run(numbers) == [["3", "hidden"], ["4", "hidden"]]
        before = tab.run(STRIP)
        tab.page.get_by_label("Weight of reference 1, 002.png").fill("0.5")
        assert [cell["source"] for cell in tab.run(STRIP)] == [cell["source"] for cell in before]
        tab.shot("strip_gone")
    finally:
        tab.page.unroute(gone)
        assert all("404" in text and "type=temp" in text for text in tab.errors)
        tab.errors.clear()
    tab.run("() => encode.onExecuted(app.nodeOutputs[encode.id])")  # they are there again
    wait_for_cells(tab, 1 + BATCH)
    assert all("type=temp" in cell["source"] for cell in tab.run(STRIP)[2:])
