// What the layout editor's canvas shows.

import { paintBox, paintNumber } from "./box_painting.mjs";
import { nearness } from "./geometry.mjs";
import { gridOf } from "./grid.mjs";
import { onCanvas, paintCells, paintMask } from "./shape_painting.mjs";
import { clamp } from "./value.mjs";

/** @typedef {import("./box_painting.mjs").Pen} Pen */
/** @typedef {import("./box_painting.mjs").Rect} Rect */

/**
 * @param {import("./stage.mjs").Stage} stage
 * @param {import("./box_painting.mjs").Scene} scene
 */
export function paint(stage, scene) {
  const pen = startPainting(stage);
  if (!pen) return;
  const frame = stage.frame();
  pen.fillStyle = "#1b1d22";
  pen.fillRect(frame.x, frame.y, frame.w, frame.h);
  const { image, on, opacity } = scene.host.backdrop();
  if (image && on) {
    pen.globalAlpha = opacity;
    pen.drawImage(image, frame.x, frame.y, frame.w, frame.h);
    pen.globalAlpha = 1;
  }
  const grid = gridOf(stage.size());
  if (scene.snapping || scene.showCells) paintGrid(pen, frame, grid);
  const { boxes, boxesEditable, fronts, list, selected } = scene.subjects;
  for (const [index, { off }] of list.entries()) {
    const { mask } = scene.host.reference(index);
    if (!mask || off) continue;
    paintMask(pen, frame, index, mask);
    if (mask.box && !boxes[index]) paintNumber(pen, onCanvas(frame, mask.box), index);
  }
  const shown = [...boxes.entries()].flatMap(([index, box]) => (box ? [{ index, box }] : []));
  const near = (/** @type {typeof shown[number]} */ { index, box }) =>
    index === selected ? Number.POSITIVE_INFINITY : nearness(box, fronts[index]);
  for (const { index, box } of shown.sort((a, b) => near(a) - near(b))) {
    if (scene.showCells) paintCells(pen, frame, scene, index, box, grid);
    paintBox(pen, frame, scene, index, box);
  }
  pen.strokeStyle = document.activeElement === stage.canvas ? "#56B4E9" : "#555";
  pen.lineWidth = 1;
  pen.strokeRect(frame.x + 0.5, frame.y + 0.5, frame.w - 1, frame.h - 1);
  if (boxesEditable && !boxes.some(Boolean)) paintHint(pen, frame, scene.host.text("drawHere"));
}

/**
 * A cleared canvas as sharp as the screen, its unit a pixel before any zoom.
 * @param {import("./stage.mjs").Stage} stage
 * @returns {Pen | null} null while the canvas isn't on the screen
 */
function startPainting(stage) {
  const { canvas } = stage;
  const { clientWidth, clientHeight } = stage.root;
  if (!clientWidth || !clientHeight) return null;
  const sharpness = (window.devicePixelRatio || 1) * clamp(stage.zoom(), 1, 3);
  const [w, h] = [clientWidth, clientHeight].map((edge) => Math.round(edge * sharpness));
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext("2d");
  pen?.setTransform(w / clientWidth, 0, 0, h / clientHeight, 0, 0);
  pen?.clearRect(0, 0, clientWidth, clientHeight);
  return pen;
}

/**
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {string} words
 */
function paintHint(pen, frame, words) {
  const [x, y] = [frame.x + frame.w / 2, frame.y + frame.h / 2];
  pen.font = "12px sans-serif";
  const width = Math.min(pen.measureText(words).width + 12, frame.w);
  pen.fillStyle = "rgb(0 0 0 / 75%)"; // it may be over a result
  pen.fillRect(x - width / 2, y - 16, width, 24);
  pen.fillStyle = "#ccc";
  pen.textAlign = "center";
  pen.fillText(words, x, y, frame.w);
  pen.textAlign = "start";
}

/**
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {import("./grid.mjs").Grid} grid
 */
function paintGrid(pen, frame, [columns, rows]) {
  pen.fillStyle = "rgb(255 255 255 / 8%)";
  for (let i = 1; i < columns; i++)
    pen.fillRect(frame.x + (i / columns) * frame.w - 0.5, frame.y, 1, frame.h);
  for (let i = 1; i < rows; i++)
    pen.fillRect(frame.x, frame.y + (i / rows) * frame.h - 0.5, frame.w, 1);
}
