// The images of the references.

import { api } from "../../../../scripts/api.js";
import { copyName, outputOf } from "./last_run.mjs";
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
export function imageAddress(filename, subfolder, type) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/**
 * Address of a file that a node loads, or of a copy that the last run saved; null if there is none.
 * @param {HostNode | undefined} node the loader
 * @param {string | undefined} thumbnail name of the last run's copy
 */
export function pictureAddress(node, thumbnail) {
  const file = node && loadedFile(node);
  const match = typeof file === "string" ? FILE.exec(file) : null;
  if (match) return imageAddress(match[2], match[1] ?? "", match[3] ?? "input");
  return thumbnail ? imageAddress(thumbnail, "", "temp") : null; // an image that only a run can know
}

/**
 * The file that a Load Image or Load Image (as Mask) node loads.
 * @param {HostNode} node
 */
function loadedFile(node) {
  if (node.comfyClass !== "LoadImage" && node.comfyClass !== "LoadImageMask") return undefined;
  if (linkOf(node, "image")) return sourceOf(node, "image")?.value; // of the subgraph's node around it
  return node.widgets?.find((widget) => widget.name === "image")?.value;
}

/**
 * Address of the last run's copy of a reference as the encoder saw it, null if there is none.
 * @param {HostNode} node of the layout
 * @param {import("./last_run.mjs").Run | null} run
 * @param {number} index of the subject
 */
export function encodedAddress(node, run, index) {
  if (!run?.references[index] || !node.graph) return null;
  const encoder = node.graph.nodes.find(
    (one) => one.comfyClass === "MSDEncodeReferences" && sourceOf(one, "subjects")?.node === node,
  );
  const place = run.references.slice(0, index).filter(Boolean).length; // without those that were off
  const name = copyName(String(encoder && outputOf(encoder)?.msd_encoded?.[place]));
  return name ? imageAddress(name, "", "temp") : null;
}

export class ReferenceImages {
  /** @param {() => void} onLoad */
  constructor(onLoad) {
    this.onLoad = onLoad;
    /** @type {Map<string, HTMLImageElement | null>} by address; null: there is none */
    this.images = new Map();
  }

  /** @param {string} address */
  get(address) {
    const known = this.images.get(address);
    if (known !== undefined) return known;
    const image = new Image();
    image.onload = this.onLoad;
    image.onerror = () => {
      this.images.set(address, null);
      this.onLoad();
    };
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
