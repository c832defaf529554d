// Nodes that give the masks of a subject: one that inverts its reference's, one to paint its region.

import { app } from "../../../../scripts/app.js";
import { nextFrame } from "./frames.mjs";
import { linkInto, linkOf, slotOf } from "./links.mjs";
import { addLoader, isOpenLoader } from "./load_image.mjs";
import { addSockets, maskSocket, regionSocket } from "./sockets.mjs";
import { sourceOf } from "./sources.mjs";
import { endUndoStep, holdUndoStep } from "./undo_steps.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */

const MASK_OUTPUT = 1; // of Load Image
const MAX_WAITS = 120; // frames, for a loader's picture
const LEFT = 260; // of the node, for a new Invert Mask

/**
 * The node that a reference's mask comes from directly; null where it is outside of the subgraph.
 * @param {HostNode} node
 * @param {number} index
 */
export function maskOrigin(node, index) {
  const link = linkOf(node, maskSocket(index));
  return (link && node.graph?.getNodeById(link.origin_id)) ?? null;
}

/**
 * Turn a reference's mask the other way round: put Invert Mask before it, or take away the one there.
 * @param {HostNode} node
 * @param {number} index
 */
export function invertMask(node, index) {
  const slot = slotOf(node, maskSocket(index));
  const [link, origin] = [linkInto(node, slot), maskOrigin(node, index)];
  if (!node.graph || !link || !origin) return;
  holdUndoStep();
  const before = origin.comfyClass === "InvertMask" ? linkOf(origin, "mask") : null;
  const source = before && node.graph.getNodeById(before.origin_id);
  if (source) {
    source.connect(before.origin_slot, node, slot);
    return;
  }
  const invert = LiteGraph.createNode("InvertMask");
  if (!invert) return;
  invert.pos = [node.pos[0] - LEFT, node.pos[1]];
  node.graph.add(invert);
  origin.connect(link.origin_slot, invert, 0);
  invert.connect(0, node, slot);
}

/**
 * Whether a subject's region can be painted: on its Load Image, or on a new one.
 * @param {HostNode} node
 * @param {number} index
 */
export function isPaintable(node, index) {
  const source = sourceOf(node, regionSocket(index));
  if (source === null) return slotOf(node, regionSocket(0)) >= 0; // else an older node's
  return paintedLoader(node, index) !== null;
}

/**
 * The Load Image of this graph that gives a region, null if none does.
 * @param {HostNode} node
 * @param {number} index
 */
function paintedLoader(node, index) {
  const { node: loader, slot } = sourceOf(node, regionSocket(index)) ?? {};
  if (!loader || slot !== MASK_OUTPUT || loader.graph !== node.graph) return null;
  return isOpenLoader(loader) ? loader : null;
}

/**
 * Open the host's mask editor on the Load Image of a subject's region.
 * @param {HostNode} node
 * @param {number} index
 * @param {() => Promise<string>} upload a picture to paint on, for a region that has none; its name
 */
export async function paintMask(node, index, upload) {
  let loader = paintedLoader(node, index);
  if (!loader) {
    const name = await upload();
    holdUndoStep();
    loader = addLoader(node, name);
    addSockets(node, regionSocket, index);
    loader?.connect(MASK_OUTPUT, node, slotOf(node, regionSocket(index)));
    endUndoStep();
  }
  if (!loader) return;
  const shown = /** @type {{imgs?: unknown[], previewMediaType?: string}} */ (loader);
  const hasPicture = () => shown.imgs?.length || shown.previewMediaType === "image";
  for (let waits = 0; !hasPicture() && waits < MAX_WAITS; waits++) await nextFrame();
  app.canvas.selectNode(loader);
  await app.extensionManager.command.execute("Comfy.MaskEditor.OpenMaskEditor");
}
