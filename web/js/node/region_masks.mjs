// The masks on the region sockets, as far as the page can see them: those of a picture file, also
// inverted, and the copies of the last run.

import { linkOf } from "./links.mjs";
import { sourceOf } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */
/** @typedef {import("./sources.mjs").Source} Source */
/** @typedef {import("../layout/host.mjs").Mask} Mask */

/**
 * Where a mask is in a picture file.
 * @typedef {object} FileMask
 * @property {HostNode | null} loader of the file; null: a run's copy
 * @property {number} channel of its red, green, blue and alpha
 * @property {boolean} inverted
 */

const EDGE = 256; // pixels of the longer edge, enough to show a mask and to find its box
const CHANNELS = ["red", "green", "blue", "alpha"];
const [RED, ALPHA] = [0, 3];
const MAX_INVERSIONS = 16; // one after another

/** A mask that a run has saved. @type {FileMask} */
export const COPY = { loader: null, channel: RED, inverted: false };

/**
 * @param {Source} source of a mask
 * @returns {FileMask | null} null where only a run can know
 */
export function fileMask(source, inversions = 0) {
  const { node, slot } = source ?? {};
  if (!node || inversions > MAX_INVERSIONS) return null;
  if (node.comfyClass === "InvertMask") {
    const found = fileMask(sourceOf(node, "mask"), inversions + 1);
    return found && { ...found, inverted: !found.inverted };
  }
  // What is transparent is white in the mask that both loaders make of alpha.
  if (node.comfyClass === "LoadImage" && slot === 1)
    return { loader: node, channel: ALPHA, inverted: true };
  if (node.comfyClass !== "LoadImageMask" || linkOf(node, "channel")) return null;
  const value = node.widgets?.find(({ name }) => name === "channel")?.value;
  const channel = CHANNELS.indexOf(String(value));
  return channel < 0 ? null : { loader: node, channel, inverted: channel === ALPHA };
}

/** @type {WeakMap<HTMLImageElement, Map<string, Mask>>} */
const known = new WeakMap();

/**
 * The mask in a picture, null until it has loaded.
 * @param {HTMLImageElement} image
 * @param {FileMask} mask
 */
export function readMask(image, { channel, inverted }) {
  if (!image.naturalWidth) return null;
  const masks = known.get(image) ?? new Map();
  known.set(image, masks);
  const key = `${channel} ${inverted}`;
  if (!masks.has(key)) masks.set(key, maskOf(image, channel, inverted));
  return masks.get(key) ?? null;
}

/**
 * @param {HTMLImageElement} image
 * @param {number} channel
 * @param {boolean} inverted
 * @returns {Mask}
 */
function maskOf(image, channel, inverted) {
  const { naturalWidth, naturalHeight } = image;
  const scale = Math.min(1, EDGE / Math.max(naturalWidth, naturalHeight));
  const [w, h] = [naturalWidth, naturalHeight].map((edge) => Math.max(1, Math.round(edge * scale)));
  const canvas = new OffscreenCanvas(w, h);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (
    canvas.getContext("2d", { willReadFrequently: true })
  );
  pen.drawImage(image, 0, 0, w, h);
  const pixels = pen.getImageData(0, 0, w, h);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    const value = data[i + channel];
    data[i + ALPHA] = inverted ? 255 - value : value;
  }
  pen.putImageData(pixels, 0, 0);
  return { canvas, box: boxOf(data, w, h) };
}

/**
 * The box around what is at least half as opaque as the most opaque pixel, as the node finds it
 * (mask_box in msd_core/coverage.py); null for an empty mask.
 * @param {Uint8ClampedArray} data
 * @param {number} w
 * @param {number} h
 * @returns {import("../layout/value.mjs").Box | null}
 */
function boxOf(data, w, h) {
  let most = 0;
  for (let i = ALPHA; i < data.length; i += 4) most = Math.max(most, data[i]);
  if (!most) return null;
  let [x0, y0, x1, y1] = [w, h, 0, 0];
  for (let i = 0; i < w * h; i++) {
    if (data[4 * i + ALPHA] < most / 2) continue;
    const [x, y] = [i % w, Math.floor(i / w)];
    [x0, y0] = [Math.min(x0, x), Math.min(y0, y)];
    [x1, y1] = [Math.max(x1, x + 1), Math.max(y1, y + 1)];
  }
  return [x0 / w, y0 / h, x1 / w, y1 / h];
}
