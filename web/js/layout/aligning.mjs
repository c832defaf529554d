// Boxes in line with the picture, and with one another.

import { fitShape, setShape } from "./polygon.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {"left" | "centre" | "right" | "top" | "middle" | "bottom"} Edge */

/**
 * Move a box to an edge of the picture or to its middle.
 * @param {Box} box
 * @param {Edge} edge
 * @returns {Box}
 */
export function alignBox([x0, y0, x1, y1], edge) {
  const [w, h] = [x1 - x0, y1 - y0];
  const x = { left: 0, centre: (1 - w) / 2, right: 1 - w }[/** @type {string} */ (edge)] ?? x0;
  const y = { top: 0, middle: (1 - h) / 2, bottom: 1 - h }[/** @type {string} */ (edge)] ?? y0;
  return [x, y, x + w, y + h];
}

/**
 * Move boxes so that the spaces between them are equal, from the first to the last.
 * @param {(Box | null)[]} boxes those that are null stay so
 * @param {0 | 1} axis 0: side by side, 1: one below another
 * @returns {(Box | null)[]}
 */
export function distributeBoxes(boxes, axis) {
  const [start, end] = [axis, axis + 2];
  const sorted = boxes.filter((box) => box !== null).sort((a, b) => a[start] - b[start]);
  if (sorted.length < 3) return boxes;
  const last = /** @type {Box} */ (sorted.at(-1));
  const taken = sorted.reduce((sum, box) => sum + box[end] - box[start], 0);
  const space = (last[end] - sorted[0][start] - taken) / (sorted.length - 1);
  let at = sorted[0][start];
  /** @type {Map<Box | null, Box>} */
  const moved = new Map();
  for (const box of sorted) {
    const by = at - box[start];
    const to = /** @type {Box} */ ([...box]);
    to[start] += by;
    to[end] += by;
    moved.set(box, box === last ? box : to);
    at = to[end] + space;
  }
  return boxes.map((box) => moved.get(box) ?? null);
}

/**
 * Make the spaces between all boxes equal.
 * @param {import("./subjects.mjs").Subjects} subjects
 * @param {0 | 1} axis 0: side by side, 1: one below another
 */
export function distribute(subjects, axis) {
  const { list } = subjects;
  const boxes = distributeBoxes(
    list.map(({ box }) => box),
    axis,
  );
  for (const [i, box] of boxes.entries()) if (box) setShape(list[i], fitShape(list[i], box));
  subjects.store();
}
