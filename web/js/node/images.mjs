// The images of the references.

import { api } from "../../../../scripts/api.js";
import { linkOf } from "./links.mjs";
import { sourceOf } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */

const FILE = /^(?:(.*)\/)?([^/]*?)(?: \[(input|output|temp)\])?$/s; // folder, name, kind of folder

/**
 * Address of an image on the server; only ever its own route.
 * @param {string} filename
 * @param {string} subfolder
 * @param {string} type
 */
function imageAddress(filename, subfolder, type) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/**
 * Address of a reference's image, or null.
 * @param {HostNode | undefined} node where it comes from
 * @param {string | undefined} thumbnail name of the last run's copy
 */
export function referenceAddress(node, thumbnail) {
  const file = node && loadedFile(node);
  const match = typeof file === "string" ? FILE.exec(file) : null;
  if (match) return imageAddress(match[2], match[1] ?? "", match[3] ?? "input");
  return thumbnail ? imageAddress(thumbnail, "", "temp") : null; // an image that only a run can know
}

/**
 * The file that a Load Image node loads.
 * @param {HostNode} node
 */
function loadedFile(node) {
  if (node.comfyClass !== "LoadImage") return undefined;
  if (linkOf(node, "image")) return sourceOf(node, "image")?.value; // of the subgraph's node around it
  return node.widgets?.find((widget) => widget.name === "image")?.value;
}

export class ReferenceImages {
  /** @param {() => void} onLoad */
  constructor(onLoad) {
    this.onLoad = onLoad;
    /** @type {Map<string, HTMLImageElement>} by address */
    this.images = new Map();
  }

  /** @param {string} address */
  get(address) {
    const known = this.images.get(address);
    if (known) return known;
    const image = new Image();
    image.onload = this.onLoad;
    image.src = address;
    this.images.set(address, image);
    return image;
  }

  /** Forget the copies of an earlier run. */
  dropThumbnails() {
    for (const address of this.images.keys())
      if (address.includes("type=temp")) this.images.delete(address);
  }
}
