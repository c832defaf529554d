// What the canvas shows of one box.

import { isLeftOut } from "./arranging.mjs";
import { colourOf, inkOn, isHatched } from "./colours.mjs";
import { pixelsOf } from "./geometry.mjs";
import { shownPolygon } from "./polygon.mjs";
import { onCanvas, outline } from "./shape_painting.mjs";

/** @typedef {CanvasRenderingContext2D} Pen */
/** @typedef {import("./geometry.mjs").Rect} Rect */
/** @typedef {import("./value.mjs").Box} Box */

const HATCHING = 12; // pixels from one line to the next

/**
 * @typedef {object} Scene
 * @property {import("./host.mjs").Host} host
 * @property {import("./subjects.mjs").Subjects} subjects
 * @property {number} hovered index of the box below the mouse, -1 for none
 * @property {boolean} snapping
 * @property {boolean} showCells
 */

/**
 * @param {Pen} pen
 * @param {Rect} frame
 * @param {Scene} scene
 * @param {number} index
 * @param {Box} box
 */
export function paintBox(pen, frame, { host, hovered, subjects }, index, box) {
  const rect = onCanvas(frame, box);
  const { x, y, w, h } = rect;
  const colour = colourOf(index);
  const selected = index === subjects.selected;
  const { image, region } = host.reference(index);
  const { phrase = "", off: isOff = false } = subjects.list[index] ?? {};
  const leftOut = isLeftOut(subjects, index);
  const off = isOff || leftOut;
  const polygon = shownPolygon(subjects, index);
  const border = new Path2D();
  border.rect(x, y, w, h);
  const path = polygon ? outline(frame, polygon) : border;
  pen.save();
  pen.clip(path);
  pen.fillStyle = colour + (selected ? "40" : index === hovered ? "33" : "22");
  if (!off || selected) pen.fill(path);
  if (image?.naturalWidth && !off) paintReference(pen, rect, image);
  if (isHatched(index)) paintHatching(pen, rect, colour);
  pen.restore();
  pen.save();
  pen.clip(border);
  paintNumber(pen, rect, index);
  if (selected) {
    const pixels = pixelsOf(box, host.size());
    paintLabel(pen, `${pixels.w} × ${pixels.h}`, x + 26, y + 13, "#fff");
  }
  const words = phrase.slice(0, 80) || host.text("noPhrase");
  const sign = leftOut ? "leftOutLabel" : "offLabel";
  const label = off ? host.text(sign, { phrase: words }) : words;
  paintLabel(pen, label, x + 3, y + h - 5, phrase || off ? "#fff" : "#ffb08a");
  pen.restore();
  pen.strokeStyle = colour;
  pen.lineWidth = selected ? 2.5 : 1.5;
  pen.setLineDash(subjects.boxesEditable && !region && !off ? [] : [5, 4]);
  pen.stroke(path);
  pen.setLineDash([]);
  pen.lineWidth = 0.5;
  if (selected && polygon) pen.stroke(border); // its handles are on it
  if (selected && subjects.boxesEditable) paintHandles(pen, rect);
}

/**
 * @param {Pen} pen
 * @param {{x: number, y: number}} corner
 * @param {number} index
 */
export function paintNumber(pen, { x, y }, index) {
  pen.fillStyle = colourOf(index);
  pen.beginPath();
  pen.roundRect(x, y, 22, 18, isHatched(index) ? 9 : 0);
  pen.fill();
  pen.fillStyle = inkOn(index);
  pen.font = "bold 12px sans-serif";
  pen.textAlign = "center";
  pen.fillText(String(index + 1), x + 11, y + 13.5);
  pen.textAlign = "start";
}

/**
 * @param {Pen} pen
 * @param {Rect} rect
 * @param {string} colour
 */
function paintHatching(pen, { x, y, w, h }, colour) {
  pen.strokeStyle = `${colour}99`;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (let at = 0; at < w + h; at += HATCHING) {
    pen.moveTo(x + at, y);
    pen.lineTo(x + at - h, y + h);
  }
  pen.stroke();
}

/**
 * @param {Pen} pen
 * @param {Rect} rect
 * @param {HTMLImageElement} image
 */
function paintReference(pen, { x, y, w, h }, image) {
  const scale = Math.min(w / image.naturalWidth, h / image.naturalHeight);
  const [iw, ih] = [image.naturalWidth * scale, image.naturalHeight * scale];
  pen.globalAlpha = 0.6;
  pen.drawImage(image, x + (w - iw) / 2, y + (h - ih) / 2, iw, ih);
  pen.globalAlpha = 1;
}

/**
 * @param {Pen} pen
 * @param {Rect} rect
 */
function paintHandles(pen, { x, y, w, h }) {
  pen.fillStyle = "#fff";
  for (const px of [0, 0.5, 1])
    for (const py of [0, 0.5, 1])
      if (px !== 0.5 || py !== 0.5) pen.fillRect(x + px * w - 3, y + py * h - 3, 6, 6);
}

/**
 * Text on a dark ground.
 * @param {Pen} pen
 * @param {string} words
 * @param {number} x
 * @param {number} y of the base line
 * @param {string} colour
 */
function paintLabel(pen, words, x, y, colour) {
  pen.font = "12px sans-serif";
  pen.fillStyle = "rgb(0 0 0 / 75%)";
  pen.fillRect(x - 2, y - 11, pen.measureText(words).width + 4, 15);
  pen.fillStyle = colour;
  pen.fillText(words, x, y);
}
