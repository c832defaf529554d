// The wheel over an editor.

import { app } from "../../../../scripts/app.js";

// Rows that scroll. Nodes 2.0 takes every wheel on its way down to them, so this comes
// first and keeps it from the host; the browser then scrolls the rows.
window.addEventListener(
  "wheel",
  (event) => {
    const rows = event.target instanceof Element ? event.target.closest(".msd-rows") : null;
    if (rows && rows.scrollHeight > rows.clientHeight && !event.ctrlKey) event.stopPropagation();
  },
  { capture: true, passive: true },
);

/**
 * Whether an editor is on the graph, not in the app mode.
 * @param {HTMLElement} root
 */
export const isInGraph = (root) => Boolean(root.closest(".graph-canvas-container"));

/**
 * The wheel zooms the graph, as everywhere else in it.
 * @param {HTMLElement} root of an editor
 */
export function forwardWheel(root) {
  const forward = (/** @type {WheelEvent} */ event) => {
    if (!isInGraph(root)) return;
    event.preventDefault();
    event.stopPropagation();
    app.canvas.processMouseWheel(event);
  };
  root.addEventListener("wheel", forward, { passive: false });
}
