// The picture behind the boxes: the last result of the layout's runs, and the preview of one that is
// under way.

import { api } from "../../../../scripts/api.js";
import { app } from "../../../../scripts/app.js";
import { clamp } from "../layout/value.mjs";
import { imageAddress } from "./images.mjs";
import { outputOf } from "./last_run.mjs";
import { sourceOf } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */

/**
 * A job of the host and its pictures.
 * @typedef {object} Job
 * @property {string} id
 * @property {Set<string>} copies of references that layouts saved in it, by which they are known
 * @property {HTMLImageElement | null} result
 * @property {boolean} saved whether the result is a saved picture, which goes before previews
 * @property {HTMLImageElement | null} preview
 * @property {boolean} ended
 */

// Property of the node: {on: boolean, opacity: number}, where they aren't the usual ones.
const PROPERTY = "msd_backdrop";
const USUAL = { on: true, opacity: 0.5 };
const MAX_JOBS = 4;
const ASPECT_TOLERANCE = 0.05; // latents are rounded to 8 pixels

/** @type {Job[]} of the page, as undo creates nodes again; the newest is the last */
const jobs = [];
/** @type {Set<() => void>} what to call when a picture is there or gone */
const watchers = new Set();

/** @param {string} id */
function jobOf(id) {
  let job = jobs.find((one) => one.id === id);
  if (!job) {
    job = { id, copies: new Set(), result: null, saved: false, preview: null, ended: false };
    jobs.push(job);
    jobs.splice(0, jobs.length - MAX_JOBS);
  }
  return job;
}

/**
 * @param {string} address
 * @param {(image: HTMLImageElement) => void} then
 */
function load(address, then) {
  const image = new Image();
  image.onload = () => {
    then(image);
    for (const watcher of watchers) watcher();
  };
  image.src = address;
}

/**
 * @param {unknown} path ids of the subgraphs' nodes around it, and its own
 * @returns {HostNode | null | undefined}
 */
function nodeAt(path) {
  /** @type {any} */
  let node = null;
  for (const id of String(path).split(":"))
    node = (node ? node.subgraph : app.rootGraph)?.getNodeById(Number(id));
  return node;
}

/**
 * Whether a node shows what a layout draws: its preview or its collage.
 * @param {HostNode | null | undefined} node
 */
const showsALayout = (node) => node && sourceOf(node, "images")?.node?.comfyClass === "MSDLayout";

/**
 * @param {Job} job
 * @param {any} output of a node in it
 */
function noteCopies(job, output) {
  for (const name of output?.msd_references ?? []) if (name) job.copies.add(name);
}

api.addEventListener("execution_cached", ({ detail }) => {
  const { prompt_id, nodes } = /** @type {any} */ (detail);
  const found = nodes.map(nodeAt).filter(Boolean);
  for (const node of found) noteCopies(jobOf(prompt_id), outputOf(node));
});

api.addEventListener("executed", ({ detail }) => {
  const { prompt_id, node, display_node = node, output } = /** @type {any} */ (detail);
  const job = jobOf(prompt_id);
  noteCopies(job, output);
  const { filename, subfolder = "", type = "output" } = output?.images?.[0] ?? {};
  const saved = type === "output";
  if (!filename || (job.saved && !saved) || showsALayout(nodeAt(display_node))) return;
  job.saved = saved;
  load(imageAddress(filename, subfolder, type), (image) => {
    if (job.saved === saved) job.result = image;
  });
});

api.addEventListener("b_preview_with_metadata", ({ detail }) => {
  const { blob, jobId } = detail;
  const address = URL.createObjectURL(blob);
  load(address, (image) => {
    URL.revokeObjectURL(address);
    const job = jobOf(jobId);
    if (!job.ended) job.preview = image;
  });
});

for (const name of /** @type {const} */ ([
  "execution_success",
  "execution_error",
  "execution_interrupted",
]))
  api.addEventListener(name, ({ detail }) => {
    Object.assign(jobOf(detail.prompt_id), { preview: null, ended: true });
    for (const watcher of watchers) watcher();
  });

export class Backdrop {
  /**
   * @param {HostNode} node
   * @param {import("./last_run.mjs").LastRun} lastRun
   * @param {() => void} draw
   */
  constructor(node, lastRun, draw) {
    this.node = node;
    this.lastRun = lastRun;
    this.draw = draw;
    /** @type {HTMLImageElement | null} until a run has its own */
    this.shown = null;
  }

  watch() {
    watchers.add(this.draw);
  }

  unwatch() {
    watchers.delete(this.draw);
  }

  /** @returns {{on: boolean, opacity: number}} as any workflow file may hold it */
  get settings() {
    const { on, opacity } = /** @type {any} */ (this.node.properties?.[PROPERTY]) ?? {};
    return {
      on: typeof on === "boolean" ? on : USUAL.on,
      opacity: Number.isFinite(opacity) ? clamp(opacity, 0, 1) : USUAL.opacity,
    };
  }

  /** @param {{on: boolean, opacity: number}} settings */
  set settings(settings) {
    this.node.properties[PROPERTY] = settings;
  }

  /**
   * The picture as a file, to paint on; grey where there is none.
   * @param {import("../layout/geometry.mjs").Size} size
   */
  async file(size) {
    const canvas = new OffscreenCanvas(...size);
    const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, ...size);
    const image = this.picture(size);
    if (image) pen.drawImage(image, 0, 0, ...size);
    return new File([await canvas.convertToBlob()], "msd_region.png", { type: "image/png" });
  }

  /**
   * The picture to show; one of another aspect isn't of this layout, or not any more.
   * @param {import("../layout/geometry.mjs").Size} size of the layout's picture
   */
  picture([width, height]) {
    this.lastRun.get();
    const { copy } = this.lastRun;
    const job = jobs.findLast((one) => one.copies.has(copy) && (one.preview || one.result));
    this.shown = copy ? (job?.preview ?? job?.result ?? this.shown) : null;
    if (!this.shown) return null;
    const { naturalWidth, naturalHeight } = this.shown;
    const stretch = (naturalWidth * height) / (naturalHeight * width);
    return Math.abs(Math.log(stretch)) < ASPECT_TOLERANCE ? this.shown : null;
  }
}
