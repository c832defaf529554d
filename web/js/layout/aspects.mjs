// Usual aspects of a picture, in as many pixels as the model makes.

/** @typedef {import("./geometry.mjs").Size} Size */

export const ASPECTS = ["1:1", "4:3", "3:2", "16:9", "21:9", "3:4", "2:3", "9:16"];
// SDXL's buckets are multiples of 64; of smaller pictures that would be too coarse for an aspect.
const [STEP, SMALL_STEP, SMALL] = [64, 16, 1024];
const MODEL_STEP = 256; // models are made for squares of 512, 768, 1024, ... pixels

/**
 * The edge of the square with as many pixels as the model makes, by the picture's present size.
 * @param {Size} size
 */
export function edgeOf([width, height]) {
  return MODEL_STEP * Math.max(1, Math.round(Math.sqrt(width * height) / MODEL_STEP));
}

/**
 * The size of an aspect, in no more pixels than the square has: for 1024 SDXL's bucket.
 * @param {string} aspect as in ASPECTS
 * @param {number} edge of the square
 * @returns {Size}
 */
export function sizeOf(aspect, edge) {
  const [across, down] = aspect.split(":").map(Number);
  const step = edge < SMALL ? SMALL_STEP : STEP;
  /** @type {Size[]} */
  const sizes = [];
  for (let width = step; width <= (edge * edge) / step; width += step)
    sizes.push([width, Math.floor((edge * edge) / width / step) * step]);
  const error = (/** @type {Size} */ [w, h]) => Math.abs(Math.log((w * down) / (h * across)));
  return sizes.reduce((best, size) => (error(size) < error(best) ? size : best));
}
