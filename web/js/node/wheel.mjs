// The wheel and its button over an editor.

import { app } from "../../../../scripts/app.js";

const ENLARGED = "msd-layout-holder:popover-open";

// Rows that scroll, and an enlarged editor. Nodes 2.0 takes every wheel on its way down to them, so
// this comes first and keeps it from the host; the browser then scrolls the rows.
window.addEventListener(
  "wheel",
  (event) => {
    if (!(event.target instanceof Element)) return;
    const rows = event.target.closest(".msd-rows");
    const scrolls = rows && rows.scrollHeight > rows.clientHeight && !event.ctrlKey;
    if (scrolls || event.target.closest(ENLARGED)) event.stopPropagation();
  },
  { capture: true, passive: true },
);

/**
 * Whether an editor is on the graph, not in the app mode.
 * @param {HTMLElement} root
 */
export const isInGraph = (root) => Boolean(root.closest(".graph-canvas-container"));

/** @param {HTMLElement} root */
const movesGraph = (root) => isInGraph(root) && !root.closest(ENLARGED);

/**
 * The wheel zooms the graph, as everywhere else in it.
 * @param {HTMLElement} root of an editor
 */
export function forwardWheel(root) {
  const forward = (/** @type {WheelEvent} */ event) => {
    if (!movesGraph(root)) return;
    event.preventDefault();
    event.stopPropagation();
    app.canvas.processMouseWheel(event);
  };
  root.addEventListener("wheel", forward, { passive: false });
}

/**
 * The middle button moves the graph.
 * @param {HTMLElement} root of an editor
 * @param {PointerEvent} event
 */
export function forwardButton(root, event) {
  if (event.button === 1 && movesGraph(root)) app.canvas.processMouseDown(event);
}
