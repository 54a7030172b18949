// What the pack's widgets share: elements, styles in ComfyUI's colours, DOM widgets, downloads.

const STYLES = `
.mip { box-sizing: border-box; display: flex; flex-direction: column; gap: 6px; height: 100%;
  padding: 8px; overflow: hidden; border: 1px solid var(--mip-line); border-radius: 8px;
  font: 12px/1.35 Inter, Arial, sans-serif;
  color: var(--fg-color, #fff); background: var(--comfy-menu-bg, #171718);
  --mip-soft: color-mix(in srgb, var(--fg-color, #fff) 72%, var(--comfy-menu-bg, #171718));
  --mip-line: color-mix(in srgb, var(--fg-color, #fff) 16%, var(--comfy-menu-bg, #171718));
  --mip-fill: color-mix(in srgb, var(--fg-color, #fff) 8%, var(--comfy-menu-bg, #171718));
  --mip-accent: #1667c9; --mip-good: #12804a; --mip-warm: #b35c00; --mip-odd: #a024b8;
  --mip-bad: #c62828; }
.dark-theme .mip { --mip-accent: #6cb6ff; --mip-good: #4ade80; --mip-warm: #fbbf24;
  --mip-odd: #f0a6ff; --mip-bad: #ff7b7b; }
.mip *, .mip *::before { box-sizing: border-box; }
.mip-row { display: flex; align-items: center; gap: 6px; min-width: 0; }
.mip-grow { flex: 1 1 0; min-width: 0; min-height: 0; }
.mip-cut { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mip-soft { color: var(--mip-soft); }
.mip-number { font-variant-numeric: tabular-nums; }
.mip button { flex: none; margin: 0; padding: 2px 8px; border: 1px solid var(--mip-line);
  border-radius: 6px; font: inherit; line-height: 18px; color: inherit; cursor: pointer;
  background: var(--mip-fill); }
.mip button:hover:enabled { border-color: var(--mip-soft); }
.mip button:disabled { opacity: 0.45; cursor: default; }
.mip :focus-visible { outline: 2px solid var(--mip-accent); outline-offset: 1px; }
dialog.mip { position: fixed; inset: 0; height: fit-content; width: fit-content; margin: auto;
  max-width: 96vw; max-height: 96vh; padding: 12px; border: 1px solid var(--mip-line); }
dialog.mip::backdrop { background: rgb(0 0 0 / 60%); }
dialog.mip img { max-width: 92vw; max-height: 84vh; min-height: 40vh; object-fit: contain; }
`;

// An element; attributes whose names start with "on" are listeners, children may be texts.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function button(label, title, onclick) {
  return element("button", { type: "button", title, "aria-label": title, onclick }, label);
}

// A text that says what is wrong; docs/troubleshooting.md tells each of them.
export function complaint(text) {
  return { text, bad: true };
}

// Styles of the pack, and of one widget, once each.
export function addStyles(name, text) {
  for (const [id, rules] of [["mip-styles", STYLES], [`mip-styles-${name}`, text]]) {
    if (rules && !document.getElementById(id))
      document.head.append(element("style", { id }, rules));
  }
}

// Call `after` each time after a method of an object, whatever stood there before.
export function chain(object, method, after) {
  const before = object[method];
  object[method] = function (...given) {
    const result = before?.apply(this, given);
    after.apply(this, given);
    return result;
  };
}

const MARGIN = 10; // that ComfyUI leaves around a DOM widget

// Show `root` below a node's own widgets, at least `height` high; it is saved nowhere.
export function addDomWidget(node, app, name, root, height) {
  const widget = node.addDOMWidget(name, "multi_ipadapter", root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height + 2 * MARGIN,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  root.style.minHeight = `${height}px`;
  leaveShortcuts(root);
  passToCanvas(root, app);
  // Now, not when the graph is loaded again: then ComfyUI makes room for all of a node's parts.
  node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  return widget;
}

// For a widget that shows the node's pictures itself: ComfyUI would show them again below, and the
// node would grow.
export function showNoOtherPictures(node) {
  node.hideOutputImages = true;
  Object.defineProperty(node, "imgs", { get: () => undefined, set: () => {}, configurable: true });
}

// Keys that do something in here must not also be shortcuts of ComfyUI.
function leaveShortcuts(root) {
  const own = ["Enter", " ", "Escape", "Home", "End", "PageUp", "PageDown", "Backspace", "Delete"];
  root.addEventListener("keydown", (event) => {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (plain && (own.includes(event.key) || event.key.startsWith("Arrow")))
      event.stopPropagation();
  });
}

// The wheel zooms the canvas and the middle button moves it, as beside the widget.
function passToCanvas(root, app) {
  const pass = (kind, method, when) =>
    root.addEventListener(kind, (event) => {
      if (!globalThis.LiteGraph?.vueNodesMode && when(event)) app.canvas?.[method]?.(event);
    });
  pass("wheel", "processMouseWheel", (event) => !event.defaultPrevented);
  pass("pointerdown", "processMouseDown", (event) => event.button === 1);
  pass("pointermove", "processMouseMove", (event) => event.buttons & 4);
  pass("pointerup", "processMouseUp", (event) => event.button === 1);
}

// The wheel scrolls a place where there is something to scroll, and does not zoom the canvas.
export function keepWheel(place) {
  place.addEventListener("wheel", (event) => {
    const upright = Math.abs(event.deltaY) >= Math.abs(event.deltaX);
    const [whole, seen] = upright
      ? [place.scrollHeight, place.clientHeight]
      : [place.scrollWidth, place.clientWidth];
    if (whole > seen) event.stopPropagation();
  });
}

// At once, and then at most every `wait` milliseconds, the last time included.
export function throttled(action, wait) {
  let timer = null;
  let again = false;
  return function run() {
    if (timer !== null) {
      again = true;
      return;
    }
    again = false;
    timer = setTimeout(() => {
      timer = null;
      if (again) run();
    }, wait);
    action();
  };
}

// Let the browser keep a blob, or what is at an address, as a file.
export function download(name, source) {
  const href = source instanceof Blob ? URL.createObjectURL(source) : source;
  const link = element("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (source instanceof Blob) setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

// Show pictures large: [{src, title}], from number `at` on; arrow keys turn, Escape closes.
export function enlarge(pictures, at = 0) {
  const image = element("img", {});
  const title = element("span", { class: "mip-grow mip-cut" });
  const turn = (by) => {
    at = Math.min(Math.max(at + by, 0), pictures.length - 1);
    image.src = pictures[at].src;
    image.alt = title.textContent = pictures[at].title;
    back.disabled = at === 0;
    forth.disabled = at === pictures.length - 1;
    // A button that has just been disabled gets no keys, and nor does the dialog around it.
    if (dialog.open && document.activeElement.disabled) close.focus();
  };
  const back = button("‹", "Previous picture", () => turn(-1));
  const forth = button("›", "Next picture", () => turn(1));
  const close = button("✕", "Close", () => dialog.close());
  const bar = element("div", { class: "mip-row" }, title, back, forth, close);
  const dialog = element("dialog", { class: "mip", "aria-label": "Picture" }, bar, image);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) turn(/Left|Up/.test(event.key) ? -1 : 1);
    event.stopPropagation();
  });
  document.body.append(dialog);
  turn(0);
  dialog.showModal();
}

// Without the digits that a small chart or table has no room for.
export function shortNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}
