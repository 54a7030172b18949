// Looks at a node again and again while it is in a graph: ComfyUI tells no node what changes in
// the nodes before it, nor that results of an earlier run were put back.

import { chain } from "./widgets.js";

const EVERY = 250; // ms
const GONE = 8; // looks in a row that do not find the node
const owners = new WeakMap(); // node of each widget on the page

// Call `look` soon after the node is added to a graph, and then all the time; returns a function
// that asks for one more look. `root` is the node's widget on the page.
export function watchNode(node, root, look) {
  let timer = null;
  let missed = 0;
  const soon = () => requestAnimationFrame(() => node.graph && look(false));
  owners.set(root, node);
  chain(node, "onAdded", () => {
    missed = 0;
    timer ??= setInterval(() => {
      missed = isThere(node) ? 0 : missed + 1;
      if (missed >= GONE) return stop();
      if (missed) return;
      takeItsPlace(node, root);
      look(true);
    }, EVERY);
    soon();
  });
  const stop = () => {
    clearInterval(timer);
    timer = null;
  };
  chain(node, "onRemoved", stop);
  return soon;
}

// Whether a node is still in the workflow: nodes inside a block are not told when it goes.
export function isThere(node) {
  const graph = node.graph;
  if (graph?.getNodeById?.(node.id) !== node) return false;
  const root = graph.rootGraph ?? graph;
  return graph === root || root.subgraphs?.get(graph.id) === graph;
}

// Front ends before 1.47 go on showing the widget of a node that is gone when another gets its id,
// as after an undo.
function takeItsPlace(node, root) {
  if (root.isConnected) return;
  const others = [...document.getElementsByClassName(root.className)];
  const isLeft = (owner) => owner?.id === node.id && !isThere(owner);
  others.find((other) => isLeft(owners.get(other)))?.replaceWith(root);
}

// What a node has put out in an earlier run, if ComfyUI still knows it.
export function earlierOutput(node, app) {
  const inBlock = node.graph && !(node.graph.isRootGraph ?? true);
  return app.nodeOutputs?.[inBlock ? `${node.graph.id}:${node.id}` : node.id];
}
