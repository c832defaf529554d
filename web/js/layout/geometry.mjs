// Boxes and points of the picture, normalised, and the rectangle of the picture on the canvas.

import { clamp, MIN_EDGE, readBox } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./grid.mjs").Grid} Grid */
/** @typedef {[number, number]} Size width and height */
/** @typedef {{x: number, y: number, w: number, h: number}} Rect */
/** @typedef {{x: number, y: number}} Point in 0..1 */
/** @typedef {Point & {reachX: number, reachY: number}} Pointer with how near counts as a hit */
/** @typedef {"move" | "l" | "r" | "t" | "b" | "tl" | "tr" | "bl" | "br"} Grip what of a box is held */

const PASTE_OFFSET = 1 / 32;

/**
 * The picture's rectangle on a canvas: as large as fits, centred, with a pixel to spare around it.
 * @param {Size} size of the picture
 * @param {Size} canvas
 * @returns {Rect}
 */
export function fit([width, height], [canvasWidth, canvasHeight]) {
  const scale = Math.min((canvasWidth - 2) / width, (canvasHeight - 2) / height);
  const [w, h] = [Math.max(1, width * scale), Math.max(1, height * scale)];
  return { x: (canvasWidth - w) / 2, y: (canvasHeight - h) / 2, w, h };
}

/**
 * How near a box is: the nearer of two is in front, as in the collage.
 * @param {Box} box smaller ones are nearer
 * @param {number} front a whole number that goes before; areas are at most 1
 */
export const nearness = ([x0, y0, x1, y1], front = 0) => front - (x1 - x0) * (y1 - y0);

/**
 * Which box is at a point: the selected one if its edge is, else the nearest.
 * @param {(Box | null)[]} boxes
 * @param {Pointer} pointer
 * @param {number} selected index of the selected box, -1 for none
 * @param {number[]} fronts of the boxes, see `nearness`
 * @param {boolean} below take the box below the selected one
 * @returns {{index: number, grip: Grip} | null}
 */
export function hit(boxes, pointer, selected, fronts = [], below = false) {
  const found = [];
  for (const [index, box] of boxes.entries()) {
    const grip = box && gripAt(box, pointer);
    if (grip) found.push({ index, grip, near: nearness(box, fronts[index]) });
  }
  if (!found.length) return null;
  const own = found.find(({ index }) => index === selected);
  if (below) {
    const next = found[((own ? found.indexOf(own) : -1) + 1) % found.length];
    return { index: next.index, grip: "move" };
  }
  const nearest = found.reduce((a, b) => (b.near > a.near ? b : a));
  const { index, grip } = own && (own.grip !== "move" || own.near >= nearest.near) ? own : nearest;
  return { index, grip };
}

/**
 * @param {Box} box
 * @param {Pointer} pointer
 * @returns {Grip | null} null outside the box
 */
function gripAt([x0, y0, x1, y1], { x, y, reachX, reachY }) {
  if (x < x0 - reachX || x > x1 + reachX || y < y0 - reachY || y > y1 + reachY) return null;
  const vertical = edgeAt(y, reachY, y0, y1, ["t", "b"]);
  return /** @type {Grip} */ (vertical + edgeAt(x, reachX, x0, x1, ["l", "r"]) || "move");
}

/**
 * @param {number} at
 * @param {number} reach
 * @param {number} low
 * @param {number} high
 * @param {[string, string]} names of the low and the high edge
 */
function edgeAt(at, reach, low, high, [lowName, highName]) {
  const inside = Math.min(reach, (high - low) / 3); // a small box can still be moved
  if (at > high - inside) return highName;
  return at < low + inside ? lowName : "";
}

/**
 * A coordinate in 0..1, on the nearest line of the grid where there is one.
 * @param {number} value
 * @param {0 | 1} axis x or y
 * @param {Grid | null} grid
 */
export function snap(value, axis, grid) {
  const cells = grid?.[axis];
  return clamp(cells ? Math.round(value * cells) / cells : value, 0, 1);
}

/**
 * The box between two corners.
 * @param {Point} from
 * @param {Point} to
 * @param {Grid | null} grid
 */
export function drawBox(from, to, grid) {
  const [a, b] = [from, to].map(({ x, y }) => [snap(x, 0, grid), snap(y, 1, grid)]);
  return readBox([...a, ...b]);
}

/**
 * Move a box; it keeps its size and stays in the picture.
 * @param {Box} box
 * @param {Point} by
 * @param {Grid | null} grid
 * @returns {Box}
 */
export function moveBox([x0, y0, x1, y1], by, grid) {
  const [w, h] = [x1 - x0, y1 - y0];
  const x = clamp(snap(x0 + by.x, 0, grid), 0, 1 - w);
  const y = clamp(snap(y0 + by.y, 1, grid), 0, 1 - h);
  return [x, y, x + w, y + h];
}

/**
 * Move the edges of a box that are held; none passes the opposite one.
 * @param {Box} box
 * @param {Grip} grip
 * @param {Point} by
 * @param {Grid | null} grid
 * @returns {Box}
 */
export function resizeBox([x0, y0, x1, y1], grip, by, grid) {
  return [
    grip.includes("l") ? Math.min(snap(x0 + by.x, 0, grid), x1 - MIN_EDGE) : x0,
    grip.includes("t") ? Math.min(snap(y0 + by.y, 1, grid), y1 - MIN_EDGE) : y0,
    grip.includes("r") ? Math.max(snap(x1 + by.x, 0, grid), x0 + MIN_EDGE) : x1,
    grip.includes("b") ? Math.max(snap(y1 + by.y, 1, grid), y0 + MIN_EDGE) : y1,
  ];
}

/**
 * A box whose corner was moved, in the aspect that it had: as large as its longer edge asks for and the
 * picture lets it.
 * @param {Box} before
 * @param {Box} resized
 * @param {Grip} grip a corner
 * @returns {Box}
 */
export function keepAspect(before, resized, grip) {
  const [w, h] = [before[2] - before[0], before[3] - before[1]];
  const room = [
    grip.includes("l") ? before[2] : 1 - before[0],
    grip.includes("t") ? before[3] : 1 - before[1],
  ];
  const asked = Math.max((resized[2] - resized[0]) / w, (resized[3] - resized[1]) / h);
  const scale = Math.min(Math.max(asked, MIN_EDGE / Math.min(w, h)), room[0] / w, room[1] / h);
  const [x, y] = [
    grip.includes("l") ? before[2] - scale * w : before[0],
    grip.includes("t") ? before[3] - scale * h : before[1],
  ];
  const edges = [x, y, x + scale * w, y + scale * h].map((edge) => clamp(edge, 0, 1));
  return /** @type {Box} */ (edges);
}

/**
 * Move a box's right and lower edges.
 * @param {Box} box
 * @param {Point} by
 * @returns {Box}
 */
export function growBox([x0, y0, x1, y1], by) {
  return [x0, y0, clamp(x1 + by.x, x0 + MIN_EDGE, 1), clamp(y1 + by.y, y0 + MIN_EDGE, 1)];
}

/**
 * A pasted copy's box: a little further right and down, as far as the picture reaches.
 * @param {Box} box
 * @returns {Box}
 */
export function offsetBox([x0, y0, x1, y1]) {
  const [x, y] = [Math.min(PASTE_OFFSET, 1 - x1), Math.min(PASTE_OFFSET, 1 - y1)];
  return [x + x0, y + y0, x + x1, y + y1];
}

/**
 * A box in whole pixels of the picture.
 * @param {Box} box
 * @param {Size} size
 * @returns {Rect}
 */
export function pixelsOf([x0, y0, x1, y1], [width, height]) {
  const [x, y] = [Math.round(x0 * width), Math.round(y0 * height)];
  return { x, y, w: Math.round((x1 - x0) * width), h: Math.round((y1 - y0) * height) };
}
