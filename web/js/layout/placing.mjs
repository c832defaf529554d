// Where a new reference's box goes.

import { clamp, readBox } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./geometry.mjs").Point} Point */
/** @typedef {import("./geometry.mjs").Size} Size */

const MAX_SHARE = 0.6; // of the picture's edges
const FILLED = 0.9; // of a cell, where all boxes stand in a grid

/**
 * A box in a reference's aspect.
 * @param {Size} reference in pixels
 * @param {Size} size of the picture in pixels
 * @param {Size} cells how many such boxes have space side by side, and below one another
 * @param {Point} at its middle, as far as the picture's edges let it
 * @returns {Box}
 */
function boxAround(reference, size, cells, at) {
  const [across, down] = cells.map((count) => Math.min(MAX_SHARE, FILLED / count));
  const scale = Math.min((across * size[0]) / reference[0], (down * size[1]) / reference[1]);
  const [w, h] = reference.map((edge, i) => (edge * scale) / size[i]);
  const [x, y] = [clamp(at.x - w / 2, 0, 1 - w), clamp(at.y - h / 2, 0, 1 - h)];
  return /** @type {Box} */ (readBox([x, y, x + w, y + h]));
}

/**
 * The box of a reference that was dropped at a point.
 * @param {Size} reference
 * @param {Size} size
 * @param {number} count of all subjects
 * @param {Point} at
 */
export function droppedBox(reference, size, count, at) {
  const cells = Math.max(2, Math.ceil(Math.sqrt(count)));
  return boxAround(reference, size, [cells, cells], at);
}

/**
 * The box of a reference in a grid of all, in reading order where the others leave space.
 * @param {Size} reference
 * @param {Size} size
 * @param {number} count of all subjects
 * @param {Box[]} others boxes that there are
 * @returns {Box}
 */
export function freeBox(reference, size, count, others) {
  const columns = Math.ceil(Math.sqrt(count));
  const rows = Math.ceil(count / columns);
  const boxes = Array.from({ length: columns * rows }, (_, i) => {
    const at = { x: ((i % columns) + 0.5) / columns, y: (Math.floor(i / columns) + 0.5) / rows };
    return boxAround(reference, size, [columns, rows], at);
  });
  const covered = (/** @type {Box} */ box) =>
    others.reduce((sum, other) => sum + overlap(box, other), 0);
  return boxes.reduce((best, box) => (covered(box) < covered(best) - 1e-9 ? box : best));
}

/**
 * Area in which two boxes overlap.
 * @param {Box} a
 * @param {Box} b
 */
function overlap(a, b) {
  const [w, h] = [0, 1].map((i) => Math.min(a[i + 2], b[i + 2]) - Math.max(a[i], b[i]));
  return Math.max(0, w) * Math.max(0, h);
}
