// Shapes that are drawn freehand: a polygon's points, with the box around it.

import { boxAround, MIN_EDGE } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Polygon} Polygon */
/** @typedef {import("./value.mjs").Shape} Shape */

/**
 * A shape's box and polygon alone.
 * @param {Shape} shape
 * @returns {Shape}
 */
export const shapeOf = ({ box, polygon }) => ({ box, ...(polygon && { polygon }) });

/**
 * Give a subject another shape.
 * @param {Shape} subject
 * @param {Shape} shape
 */
export function setShape(subject, { box, polygon }) {
  subject.box = box;
  if (polygon) subject.polygon = polygon;
  else delete subject.polygon;
}

/**
 * @param {Shape} one
 * @param {Shape} two
 */
export function swapShapes(one, two) {
  const shape = shapeOf(one);
  setShape(one, two);
  setShape(two, shape);
}

/**
 * The polygon to show of a subject: a linked box takes its place.
 * @param {import("./subjects.mjs").Subjects} subjects
 * @param {number} index
 */
export function shownPolygon({ host, list }, index) {
  return host.linkedBoxes() === null ? list[index]?.polygon : undefined;
}

/**
 * A shape moved and scaled into another box.
 * @param {Shape} shape
 * @param {Box} box
 * @returns {Shape}
 */
export function fitShape({ box: from, polygon }, box) {
  if (!from || !polygon) return { box };
  const map = (/** @type {number} */ value, /** @type {0 | 1} */ axis) => {
    const share = (value - from[axis]) / (from[axis + 2] - from[axis]);
    return box[axis] + share * (box[axis + 2] - box[axis]);
  };
  return { box, polygon: polygon.map(([x, y]) => [map(x, 0), map(y, 1)]) };
}

/**
 * The shape of a freehand line: with as few points as keep it, to within a tolerance.
 * @param {Polygon} line
 * @param {number} tolerance in 0..1
 * @param {number} count the most points
 * @returns {Shape | null} null if it is too small
 */
export function shapeOfLine(line, tolerance, count) {
  const box = boxAround(line);
  if (line.length < 3 || box[2] - box[0] < MIN_EDGE || box[3] - box[1] < MIN_EDGE) return null;
  const polygon = simplify(line, tolerance);
  if (polygon.length > count) return shapeOfLine(line, 2 * tolerance, count);
  return polygon.length < 3 ? null : { box: boxAround(polygon), polygon };
}

/**
 * Ramer, Douglas and Peucker's: points nearer than the tolerance to the line between others go.
 * @param {Polygon} line
 * @param {number} tolerance
 * @returns {Polygon}
 */
function simplify(line, tolerance) {
  const kept = new Set([0, line.length - 1]);
  const parts = [[0, line.length - 1]];
  for (let part = parts.pop(); part; part = parts.pop()) {
    const [first, last] = part;
    let [farthest, distance] = [-1, tolerance];
    for (let i = first + 1; i < last; i++) {
      const from = distanceTo(line[i], line[first], line[last]);
      if (from > distance) [farthest, distance] = [i, from];
    }
    if (farthest < 0) continue;
    kept.add(farthest);
    parts.push([first, farthest], [farthest, last]);
  }
  return line.filter((_, i) => kept.has(i));
}

/**
 * Distance of a point to the line from one point to another.
 * @param {[number, number]} point
 * @param {[number, number]} from
 * @param {[number, number]} to
 */
function distanceTo([x, y], [x0, y0], [x1, y1]) {
  const [w, h] = [x1 - x0, y1 - y0];
  const length = w * w + h * h;
  const share = length ? Math.min(1, Math.max(0, ((x - x0) * w + (y - y0) * h) / length)) : 0;
  return Math.hypot(x - x0 - share * w, y - y0 - share * h);
}
