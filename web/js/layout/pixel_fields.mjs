// Fields for a box in pixels of the picture.

import { element } from "./elements.mjs";
import { pixelsOf } from "./geometry.mjs";
import { clamp } from "./value.mjs";

/** @typedef {import("./geometry.mjs").Rect} Rect */
/** @typedef {import("./geometry.mjs").Size} Size */
/** @typedef {import("./value.mjs").Box} Box */

/** @type {(keyof Rect)[]} */
const NAMES = ["x", "y", "w", "h"];

// What all editors of the page share: whether width and height change together.
export const page = { keepsAspect: false };

/**
 * @param {Pick<import("./host.mjs").Host, "size" | "text">} host
 * @param {Box} box
 * @param {(box: Box) => void} change
 */
export function pixelFields({ size, text }, box, change) {
  let rect = pixelsOf(box, size());
  const fields = NAMES.map((name) => {
    const input = element("input", { type: "number", step: "1", "aria-label": text(name) });
    input.addEventListener("change", () => {
      if (input.value) {
        rect = setPixel(rect, name, input.valueAsNumber, size(), page.keepsAspect);
        change(boxOfPixels(rect, size()));
      }
      show();
    });
    input.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") show(); // what was typed isn't meant
    });
    return input;
  });
  const show = () => {
    for (const [i, name] of NAMES.entries()) fields[i].value = String(rect[name]);
  };
  show();
  const aspect = element("input", { type: "checkbox", checked: page.keepsAspect });
  aspect.addEventListener("change", () => Object.assign(page, { keepsAspect: aspect.checked }));
  const labels = fields.map((field, i) =>
    element("label", {}, element("span", { textContent: NAMES[i] }), field),
  );
  const words = element("span", { textContent: text("keepAspect") });
  const group = { className: "msd-pixels", role: "group", "aria-label": text("pixels") };
  return element(
    "div",
    group,
    ...labels,
    element("label", { className: "msd-wide" }, aspect, words),
  );
}

/**
 * The box of whole pixels.
 * @param {Rect} rect
 * @param {Size} size
 * @returns {Box}
 */
export const boxOfPixels = ({ x, y, w, h }, [width, height]) => [
  x / width,
  y / height,
  (x + w) / width,
  (y + h) / height,
];

/**
 * Change one of a box's numbers, as far as the picture reaches.
 * @param {Rect} rect in whole pixels
 * @param {keyof Rect} name
 * @param {number} value
 * @param {Size} size
 * @param {boolean} keepsAspect whether width and height change together
 * @returns {Rect}
 */
export function setPixel(rect, name, value, [width, height], keepsAspect) {
  let { x, y, w, h } = /** @type {Rect} */ ({ ...rect, [name]: Math.round(value) });
  [w, h] = [Math.max(1, w), Math.max(1, h)];
  if (keepsAspect && name === "w") h = (w * rect.h) / rect.w;
  if (keepsAspect && name === "h") w = (h * rect.w) / rect.h;
  const fits = Math.min(1, width / w, height / h);
  if (keepsAspect) [w, h] = [w * fits, h * fits];
  [w, h] = [clamp(Math.round(w), 1, width), clamp(Math.round(h), 1, height)];
  return { x: clamp(x, 0, width - w), y: clamp(y, 0, height - h), w, h };
}
