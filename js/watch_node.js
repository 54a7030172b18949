// Looks at a node again and again while it is in a graph: ComfyUI tells no node what changes in
// the nodes before it, nor that results of an earlier run were put back.

import { chain } from "./widgets.js";

const EVERY = 250; // ms
const owners = new WeakMap(); // node of each widget on the page

// Call `look` soon after the node is added to a graph, and then all the time; returns a function
// that asks for one more look. `root` is the node's widget on the page.
export function watchNode(node, root, look) {
  let timer = null;
  const soon = () => requestAnimationFrame(() => node.graph && look(false));
  owners.set(root, node);
  chain(node, "onAdded", () => {
    timer ??= setInterval(() => {
      if (!node.graph) return;
      takeItsPlace(node, root);
      look(true);
    }, EVERY);
    soon();
  });
  chain(node, "onRemoved", () => {
    clearInterval(timer);
    timer = null;
  });
  return soon;
}

// Front ends before 1.47 go on showing the widget of a node that is gone when another gets its id,
// as after an undo.
function takeItsPlace(node, root) {
  if (root.isConnected) return;
  const others = [...document.getElementsByClassName(root.className)];
  others.find((other) => owners.get(other)?.id === node.id)?.replaceWith(root);
}

// What a node of the outer graph has put out in an earlier run, if ComfyUI still knows it.
export function earlierOutput(node, app) {
  const isOuter = node.graph?.isRootGraph ?? true; // blocks have addresses of another kind
  return isOuter ? app.nodeOutputs?.[node.id] : undefined;
}
