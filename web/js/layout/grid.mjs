// The cells of the attention that a box covers.

import { rounded } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {[number, number]} Grid columns and rows */

/**
 * The grid of SDXL's coarsest cross-attention, whose cells are 32 pixels wide; each halving rounds up.
 * @param {[number, number]} size of the picture in pixels
 * @returns {Grid}
 */
export function gridOf([width, height]) {
  const cells = (/** @type {number} */ pixels) =>
    Math.max(1, Math.ceil(Math.ceil(Math.floor(pixels / 8) / 2) / 2));
  return [cells(width), cells(height)];
}

/**
 * First and last + 1 column and row of the cells that a box covers: start rounded down, end up, in
 * float32 as the server counts them (msd_core/coverage.py).
 * @param {Box} box
 * @param {Grid} grid
 * @returns {[number, number, number, number]}
 */
export function coveredCells(box, [columns, rows]) {
  const [x0, y0, x1, y1] = rounded(box).map((edge, i) =>
    Math.fround(Math.fround(edge) * (i % 2 ? rows : columns)),
  );
  return [Math.floor(x0), Math.floor(y0), Math.ceil(x1), Math.ceil(y1)];
}
