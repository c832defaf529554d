// Links into a node's slots, read by the host's methods: how it stores them has changed.

/** @typedef {import("@comfyorg/comfyui-frontend-types").ComfyApp["canvas"]} HostCanvas */
/** @typedef {NonNullable<HostCanvas["graph"]>} HostGraph */
/** @typedef {Exclude<HostGraph["nodes"][number], {subgraph: unknown}>} HostNode */

/**
 * The link into a slot. A subgraph's and a Get node's own method answers another question.
 * @param {HostNode} node
 * @param {number} index
 */
export function linkInto(node, index) {
  if (!node.inputs?.[index]) return null;
  return LiteGraph.LGraphNode.prototype.getInputLink.call(node, index) ?? null;
}

/**
 * Index of a node's input slot of this name, -1 where there is none.
 * @param {HostNode} node
 * @param {string} name
 */
export const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1;

/**
 * The link into a slot; null while `node` is in no graph, as a clone is when it gets its value.
 * @param {HostNode} node
 * @param {string} name
 */
export function linkOf(node, name) {
  return node.graph ? linkInto(node, slotOf(node, name)) : null;
}
