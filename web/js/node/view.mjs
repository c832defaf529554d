// What the canvas shows, as the node's properties keep it with the workflow.

/** @typedef {import("./links.mjs").HostNode} HostNode */

const VIEW_PROPERTY = "msd_layout_view";

/**
 * @param {HostNode} node
 * @returns {import("../layout/host.mjs").View}
 */
export function viewOf({ properties }) {
  const saved = /** @type {any} */ (properties?.[VIEW_PROPERTY]);
  return { snapping: saved?.snapping === true, showCells: saved?.showCells === true };
}

/**
 * @param {HostNode} node
 * @param {import("../layout/host.mjs").View} view
 */
export function setView({ properties }, view) {
  Object.assign(properties, { [VIEW_PROPERTY]: view });
}
