// What the canvas shows of where a subject goes, other than its box: a polygon, a mask, cells.

import { colourOf } from "./colours.mjs";
import { coveredCells } from "./grid.mjs";
import { shownPolygon } from "./polygon.mjs";

/** @typedef {import("./box_painting.mjs").Pen} Pen */
/** @typedef {import("./box_painting.mjs").Scene} Scene */
/** @typedef {import("./geometry.mjs").Rect} Rect */
/** @typedef {import("./grid.mjs").Grid} Grid */
/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Polygon} Polygon */

const MASK_OPACITY = 0.5; // as in the node's preview (nodes/layout/preview.py)

/**
 * A box on the canvas.
 * @param {Rect} frame
 * @param {Box} box
 * @returns {Rect}
 */
export const onCanvas = (frame, [x0, y0, x1, y1]) => ({
  x: frame.x + x0 * frame.w,
  y: frame.y + y0 * frame.h,
  w: (x1 - x0) * frame.w,
  h: (y1 - y0) * frame.h,
});

/**
 * @param {Rect} frame
 * @param {Polygon} polygon
 */
export function outline(frame, polygon) {
  const path = new Path2D();
  for (const [x, y] of polygon) path.lineTo(frame.x + x * frame.w, frame.y + y * frame.h);
  path.closePath();
  return path;
}

/**
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {Scene} scene
 * @param {number} index
 * @param {Box} box
 * @param {Grid} grid
 */
export function paintCells(pen, frame, { subjects }, index, box, grid) {
  const polygon = shownPolygon(subjects, index);
  if (polygon) return paintSharedCells(pen, frame, index, polygon, grid);
  const [c0, r0, c1, r1] = coveredCells(box, grid);
  const [columns, rows] = grid;
  const { x, y, w, h } = onCanvas(frame, [c0 / columns, r0 / rows, c1 / columns, r1 / rows]);
  pen.fillStyle = `${colourOf(index)}55`;
  pen.fillRect(x, y, w, h);
}

/**
 * Cells as deep in colour as a shape covers them: a picture of it with a pixel a cell.
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {number} index
 * @param {Polygon} polygon
 * @param {Grid} grid
 */
function paintSharedCells(pen, frame, index, polygon, [columns, rows]) {
  const cells = new OffscreenCanvas(columns, rows);
  const cellPen = cells.getContext("2d");
  if (!cellPen) return;
  cellPen.fillStyle = `${colourOf(index)}55`;
  cellPen.fill(outline({ x: 0, y: 0, w: columns, h: rows }, polygon));
  pen.imageSmoothingEnabled = false;
  pen.drawImage(cells, frame.x, frame.y, frame.w, frame.h);
  pen.imageSmoothingEnabled = true;
}

/**
 * The mask on a subject's region socket, in the subject's colour.
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {number} index
 * @param {import("./host.mjs").Mask} mask
 */
export function paintMask(pen, { x, y, w, h }, index, { canvas }) {
  const { width, height } = canvas;
  const tinted = new OffscreenCanvas(width, height);
  const tint = tinted.getContext("2d");
  if (!tint) return;
  tint.fillStyle = colourOf(index);
  tint.fillRect(0, 0, width, height);
  tint.globalCompositeOperation = "destination-in";
  tint.drawImage(canvas, 0, 0);
  pen.globalAlpha = MASK_OPACITY;
  pen.drawImage(tinted, x, y, w, h);
  pen.globalAlpha = 1;
}
