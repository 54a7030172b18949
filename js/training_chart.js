// The live chart on the Train node: how the run of the node's name goes, or went.

import { api } from "../../scripts/api.js";
import { EVENT, TrainingData, runOf } from "./training_data.js";
import { TrainingView } from "./training_view.js";
import { isThere, watchNode } from "./watch_node.js";
import { addDomWidget, chain, showNoOtherPictures } from "./widgets.js";

const WIDTH = 420; // of a new node
const HEIGHT = 460;

export function attach(node, app) {
  const data = new TrainingData(() => view.update());
  const view = new TrainingView(data);
  const onEvent = ({ detail }) => (isThere(node) ? receive(node, data, detail) : close());
  const refresh = () => node.graph && data.open(runName(node) ?? data.run);
  addDomWidget(node, app, "training", view.root, HEIGHT);
  showNoOtherPictures(node);
  node.setSize([Math.max(node.size[0], WIDTH), node.size[1]]);

  const name = nameWidget(node);
  if (name) chain(name, "callback", refresh);
  chain(node, "onConfigure", refresh);
  const close = () => {
    api.removeEventListener(EVENT, onEvent);
    api.removeEventListener("reconnected", refresh);
    view.close();
  };
  // Not before: a copy that is never added is never removed either.
  chain(node, "onAdded", () => {
    api.addEventListener(EVENT, onEvent);
    api.addEventListener("reconnected", refresh);
    view.open();
    refresh();
  });
  chain(node, "onRemoved", close);
  watchNode(node, view.root, () => {}); // so that it is the one on the page after an undo
}

function receive(node, data, event) {
  const { run, node: trainer } = event.status;
  const name = runName(node);
  const ours = name === null ? isNode(node, trainer) : name === run;
  if (!ours) return;
  if (data.run !== run) data.open(run);
  data.receive(event);
}

function nameWidget(node) {
  return node.widgets?.find((widget) => widget.name === "name");
}

// Null when the name comes by a wire.
function runName(node) {
  if (node.inputs?.some((input) => input.name === "name" && input.link != null)) return null;
  return runOf(String(nameWidget(node)?.value ?? ""));
}

// An id inside a subgraph has the ids of the blocks around it before its own.
function isNode(node, id) {
  return id !== null && String(id).split(":").at(-1) === String(node.id);
}
