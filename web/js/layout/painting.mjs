// What the layout editor's canvas shows.
import { clamp, coveredCells, grid } from "./value.mjs";

// Okabe and Ito's colours, which people with colour blindness tell apart, as in the node's preview.
// A colour follows from the subject's number; none is read from a file.
export const COLOURS = [
  "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999",
];

/**
 * @param {import("./editor.mjs").LayoutEditor} editor
 * @param {{snapping: boolean, showCells: boolean}} shown
 */
export function paint(editor, shown) {
  const { canvas } = editor;
  const { clientWidth, clientHeight } = editor.stage;
  if (!clientWidth || !clientHeight) return;
  const sharp = (window.devicePixelRatio || 1) * clamp(editor.zoom(), 1, 3);
  const [w, h] = [clientWidth, clientHeight].map((edge) => Math.round(edge * sharp));
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext("2d");
  pen.setTransform(w / clientWidth, 0, 0, h / clientHeight, 0, 0);
  pen.clearRect(0, 0, clientWidth, clientHeight);
  const frame = editor.frame();
  pen.fillStyle = "#1b1d22";
  pen.fillRect(frame.x, frame.y, frame.w, frame.h);
  const cells = grid(...editor.host.size());
  if (shown.snapping || shown.showCells) paintGrid(pen, frame, cells);
  const { boxes, selected } = editor;
  const order = boxes.map((_, i) => i).filter((i) => boxes[i] && i !== selected);
  if (boxes[selected]) order.push(selected);
  for (const i of order) {
    if (shown.showCells) paintCells(pen, frame, COLOURS[i % COLOURS.length], boxes[i], cells);
    paintBox(pen, frame, editor, i, boxes[i]);
  }
  pen.strokeStyle = document.activeElement === canvas ? "#56B4E9" : "#555";
  pen.lineWidth = 1;
  pen.strokeRect(frame.x + 0.5, frame.y + 0.5, frame.w - 1, frame.h - 1);
  if (!order.length && editor.boxesEditable) {
    pen.fillStyle = "#aaa";
    pen.font = "12px sans-serif";
    pen.textAlign = "center";
    const words = editor.host.text("drawHere");
    pen.fillText(words, frame.x + frame.w / 2, frame.y + frame.h / 2, frame.w);
    pen.textAlign = "start";
  }
}

/** A box of shares as x, y, width, height on the canvas. */
const onCanvas = (frame, [x0, y0, x1, y1]) => [
  frame.x + x0 * frame.w, frame.y + y0 * frame.h, (x1 - x0) * frame.w, (y1 - y0) * frame.h,
];

function paintGrid(pen, frame, [columns, rows]) {
  pen.fillStyle = "rgb(255 255 255 / 8%)";
  for (let i = 1; i < columns; i++)
    pen.fillRect(frame.x + (i / columns) * frame.w - 0.5, frame.y, 1, frame.h);
  for (let i = 1; i < rows; i++)
    pen.fillRect(frame.x, frame.y + (i / rows) * frame.h - 0.5, frame.w, 1);
}

function paintCells(pen, frame, colour, box, cells) {
  const [c0, r0, c1, r1] = coveredCells(box, cells);
  pen.fillStyle = `${colour}55`;
  pen.fillRect(...onCanvas(frame, [c0 / cells[0], r0 / cells[1], c1 / cells[0], r1 / cells[1]]));
}

function paintBox(pen, frame, editor, index, box) {
  const colour = COLOURS[index % COLOURS.length];
  const phrase = (editor.subjects[index]?.phrase ?? "").slice(0, 80);
  const selected = index === editor.selected;
  const { image, region } = editor.host.reference(index);
  const [x, y, w, h] = onCanvas(frame, box);
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w, h);
  pen.clip();
  pen.fillStyle = colour + (selected ? "40" : index === editor.hovered ? "33" : "22");
  pen.fillRect(x, y, w, h);
  if (image?.naturalWidth) {
    const scale = Math.min(w / image.naturalWidth, h / image.naturalHeight);
    const [iw, ih] = [image.naturalWidth * scale, image.naturalHeight * scale];
    pen.globalAlpha = 0.6;
    pen.drawImage(image, x + (w - iw) / 2, y + (h - ih) / 2, iw, ih);
    pen.globalAlpha = 1;
  }
  pen.fillStyle = colour;
  pen.fillRect(x, y, 18, 16);
  pen.fillStyle = "#000";
  pen.font = "bold 12px sans-serif";
  pen.fillText(String(index + 1), x + 4, y + 12.5);
  if (selected) {
    const [width, height] = editor.host.size();
    const edges = [(box[2] - box[0]) * width, (box[3] - box[1]) * height].map(Math.round);
    label(pen, edges.join(" × "), x + 20, y + 13, "#fff");
  }
  const words = phrase || editor.host.text("noPhrase");
  label(pen, words, x + 3, y + h - 5, phrase ? "#fff" : "#ffb08a");
  pen.restore();
  pen.strokeStyle = colour;
  pen.lineWidth = selected ? 2.5 : 1.5;
  pen.setLineDash(editor.boxesEditable && !region ? [] : [5, 4]);
  pen.strokeRect(x, y, w, h);
  pen.setLineDash([]);
  if (selected && editor.boxesEditable) {
    pen.fillStyle = "#fff";
    for (const px of [0, 0.5, 1])
      for (const py of [0, 0.5, 1])
        if (px !== 0.5 || py !== 0.5) pen.fillRect(x + px * w - 3, y + py * h - 3, 6, 6);
  }
}

/** Text on a dark ground; y is its base line. */
function label(pen, words, x, y, colour) {
  pen.font = "12px sans-serif";
  pen.fillStyle = "rgb(0 0 0 / 65%)";
  pen.fillRect(x - 2, y - 11, pen.measureText(words).width + 4, 15);
  pen.fillStyle = colour;
  pen.fillText(words, x, y);
}
