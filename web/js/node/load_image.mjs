// Pictures of the user: uploaded to the server, and loaded by Load Image nodes.

import { api } from "../../../../scripts/api.js";
import { text } from "../layout/texts.mjs";
import { linkOf } from "./links.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */
/** @typedef {{pos: ArrayLike<number>, size: ArrayLike<number>}} Placed */

const SIZE = /** @type {const} */ ([340, 330]);
const MEGABYTE = 1 << 20;
const [GAP, TITLE] = [60, 40]; // between nodes, and above each

/**
 * Upload a picture as the front end does.
 * @param {File} file
 * @returns {Promise<string>} its name on the server, with its folder
 */
export async function upload(file) {
  // The server would cut the connection without a word.
  const limit = Number(api.getServerFeature?.("max_upload_size"));
  if (file.size > limit) {
    const [size, max] = [file.size, limit].map((bytes) => Math.ceil(bytes / MEGABYTE));
    throw new Error(text("tooLarge", { size, max }));
  }
  const body = new FormData();
  body.append("image", file);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(answer.statusText || String(answer.status));
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

/**
 * Whether this is a Load Image node whose file can be chosen.
 * @param {HostNode | undefined} node
 */
export function isOpenLoader(node) {
  return node?.comfyClass === "LoadImage" && !linkOf(node, "image");
}

/**
 * Let a Load Image node load another file.
 * @param {HostNode} loader
 * @param {string} name
 */
export function setFile(loader, name) {
  const widget = loader.widgets?.find((one) => one.name === "image");
  if (!widget) return;
  const values = /** @type {{values?: unknown}} */ (widget.options).values;
  if (Array.isArray(values) && !values.includes(name)) values.push(name);
  widget.value = name;
  widget.callback?.(name);
}

/**
 * A new Load Image node, on free ground to the left of a node.
 * @param {HostNode} node
 * @param {string} name of the file
 */
export function addLoader(node, name) {
  const { graph } = node;
  const loader = LiteGraph.createNode("LoadImage");
  if (!graph || !loader) return null;
  loader.size = [...SIZE];
  loader.pos = [node.pos[0] - SIZE[0] - GAP, freeHeight(node, graph.nodes)];
  graph.add(loader);
  setFile(loader, name);
  return loader;
}

/**
 * The highest y from a node's top on, at which a loader left of it touches no other node.
 * @param {HostNode} node
 * @param {Placed[]} others
 */
function freeHeight(node, others) {
  const left = node.pos[0] - SIZE[0] - GAP;
  const column = others
    .filter(({ pos, size }) => pos[0] < left + SIZE[0] && pos[0] + size[0] > left)
    .sort((a, b) => a.pos[1] - b.pos[1]);
  let [, y] = node.pos;
  for (const { pos, size } of column)
    if (pos[1] - TITLE < y + SIZE[1] && pos[1] + size[1] > y - TITLE) y = pos[1] + size[1] + GAP;
  return y;
}
