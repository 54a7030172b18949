// Looks at a node again and again while it is in a graph: ComfyUI tells no node what changes in
// the nodes before it, nor that results of an earlier run were put back.

import { chain } from "./widgets.js";

const EVERY = 250; // ms

// Call `look` soon after the node is added to a graph, and then all the time; returns a function
// that asks for one more look.
export function watchNode(node, look) {
  let timer = null;
  const soon = () => requestAnimationFrame(() => node.graph && look(false));
  chain(node, "onAdded", () => {
    timer ??= setInterval(() => node.graph && look(true), EVERY);
    soon();
  });
  chain(node, "onRemoved", () => {
    clearInterval(timer);
    timer = null;
  });
  return soon;
}

// What a node of the outer graph has put out in an earlier run, if ComfyUI still knows it.
export function earlierOutput(node, app) {
  const isOuter = node.graph?.isRootGraph ?? true; // blocks have addresses of another kind
  return isOuter ? app.nodeOutputs?.[node.id] : undefined;
}
