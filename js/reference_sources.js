// Connected references of a node -> their pictures, as far as the front end can know them.

import { api } from "../../scripts/api.js";

const INPUTS = "reference_images.";
const LOADERS = ["LoadImage", "LoadImageOutput"]; // their widget names the picture's file
const ANNOTATED = /^(.*?)(?: \[(input|output|temp)\])?$/s; // "folder/name.png [output]"
const MUTED = 2; // modes of a node
const BYPASSED = 4;

// [{key, slot, label, file}] of the inputs that get pictures, in the order of the pictures.
// `key` tells the sources apart; `file` is the address of a picture that stands in a widget.
export function connectedReferences(node) {
  return [...(node.inputs?.entries() ?? [])]
    .filter(([, input]) => input.name.startsWith(INPUTS) && input.link != null)
    .map(([number, input]) => [input.name.slice(INPUTS.length), sourceOf(node, number)])
    .filter(([, source]) => source)
    .map(([slot, source]) => ({ slot, ...described(source) }));
}

// Address of a small picture that the node wrote while it ran.
export function thumbnailAddress(filename) {
  return viewAddress({ filename, subfolder: "multi_ipadapter", type: "temp" });
}

// Where the pictures of an input come from; null where ComfyUI would leave the input out.
function sourceOf(node, number) {
  let source = linkedTo(node, number);
  while (source?.origin && isPassed(source.origin)) {
    const { origin } = source;
    const next = origin.inputs?.findIndex(
      (input) => input.link != null && (origin.isVirtualNode || input.type === "IMAGE"),
    );
    source = next >= 0 ? linkedTo(origin, next) : null;
  }
  return source?.origin?.mode === MUTED ? null : source;
}

function linkedTo(node, number) {
  const link = node.getInputLink?.(number);
  return link ? { origin: node.getInputNode(number), link } : null;
}

// A reroute, or what the user has switched off so that pictures go past it.
function isPassed(origin) {
  return (origin.isVirtualNode && !origin.subgraph) || origin.mode === BYPASSED;
}

function described({ origin, link }) {
  if (!origin) return { key: `link ${link.id}`, label: "" }; // comes from outside of a subgraph
  const key = `${origin.id}:${link.origin_slot}`;
  return { key, ...(pictureOf(origin) ?? { label: origin.title ?? "" }) };
}

function pictureOf(origin) {
  const value = origin.widgets?.find((widget) => widget.name === "image")?.value;
  if (!LOADERS.includes(origin.comfyClass) || typeof value !== "string" || !value) return null;
  const [, path, type = "input"] = ANNOTATED.exec(value);
  const parts = path.split("/");
  const filename = parts.pop();
  const place = { filename, subfolder: parts.join("/"), type };
  return { label: filename, file: viewAddress({ ...place, preview: "webp;50" }) };
}

function viewAddress(query) {
  return api.apiURL(`/view?${new URLSearchParams(query)}`);
}
