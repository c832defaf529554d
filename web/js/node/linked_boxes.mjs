// The boxes that come by a link, as the host's Create Bounding Boxes has them before a run.

import { linkOf } from "./links.mjs";
import { pixels } from "./size.mjs";
import { sourceOf } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */
/** @typedef {import("../layout/geometry.mjs").Size} Size */

const ELEMENTS = 2; // its output in shares of its own picture; the one before has pixels

/**
 * The boxes of Create Bounding Boxes, normalised; null where only a run can know.
 * @param {import("./sources.mjs").Source} source of boxes
 * @param {Size} size of the layout's picture, whose pixels bounding boxes count in
 * @returns {number[][] | null}
 */
export function drawnBoxes(source, size) {
  const node = source?.node;
  if (node?.comfyClass !== "CreateBoundingBoxes" || linkOf(node, "bboxes")) return null;
  const drawn = node.widgets?.find(({ name }) => name === "editor_state")?.value;
  const own = source?.slot === ELEMENTS ? ownSize(node) : size;
  if (!Array.isArray(drawn) || !own) return null;
  const [width, height] = own;
  return drawn.map((box) => {
    const [x, y, w, h] = ["x", "y", "width", "height"].map((name) => Number(box?.[name]));
    return [x / width, y / height, (x + w) / width, (y + h) / height];
  });
}

/**
 * @param {HostNode} node
 * @returns {Size | null} null where a link gives it
 */
function ownSize(node) {
  if (sourceOf(node, "width") !== null || sourceOf(node, "height") !== null) return null;
  return [pixels(node, "width", undefined), pixels(node, "height", undefined)];
}
