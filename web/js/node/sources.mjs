// The source of a slot's value in the prompt, found the way the host builds the prompt: through
// reroutes and other nodes that only the front end knows, past bypassed nodes, into subgraphs and out
// of them.

import { linkInto, slotOf } from "./links.mjs";

/** @typedef {import("./links.mjs").HostGraph} HostGraph */
/** @typedef {import("./links.mjs").HostNode} HostNode */
/** @typedef {Extract<Parameters<HostNode["findSlotByType"]>[1], string | number>} SlotType */

/**
 * What the prompt will have for a slot: a node that runs, or a number source of the front end, and the
 * slot it goes out by; or the value that a subgraph's node has.
 * @typedef {{node: HostNode, slot: number, value?: undefined}} NodeSource
 * @typedef {{value: unknown, node?: undefined, slot?: undefined}} ValueSource
 * @typedef {NodeSource | ValueSource | null | undefined} Source null if there is none; undefined where
 *   only a run can know
 */

/**
 * A node as it was reached.
 * @typedef {object} Position
 * @property {HostNode} node
 * @property {Position | null} around the subgraph's node through which it was reached; null: by none
 * @property {number} steps that led there
 */

const [MUTED, BYPASSED] = [2, 4]; // modes of a node
const MAX_STEPS = 1000; // links in a circle have no source

/**
 * What the prompt will have for a slot.
 * @param {HostNode} node
 * @param {string} name
 * @returns {Source}
 */
export function sourceOf(node, name) {
  const index = slotOf(node, name);
  return node.graph && index >= 0 ? throughInput({ node, around: null, steps: 0 }, index) : null;
}

/**
 * All nodes that a node's inputs come from.
 * @param {HostNode} node
 * @param {(input: HostNode["inputs"][number]) => boolean} follows whether an input counts
 */
export function upstream(node, follows) {
  /** @type {Set<HostNode>} */
  const found = new Set();
  const left = [node];
  for (let next = left.pop(); next; next = left.pop())
    for (const input of next.inputs ?? []) {
      const origin = follows(input) ? sourceOf(next, input.name)?.node : null;
      if (!origin || found.has(origin)) continue;
      found.add(origin);
      left.push(origin);
    }
  return found;
}

/**
 * @param {Position} position
 * @param {number} index of the input slot
 * @param {SlotType} [type] that a bypassed node further on must pass
 * @returns {Source}
 */
function throughInput({ node, around, steps }, index, type) {
  const { graph } = node;
  const link = linkInto(node, index);
  if (!link || !graph || steps > MAX_STEPS) return null;
  if (link.originIsIoNode) {
    const outside = around ? [around] : subgraphNodes(graph);
    const found = outside.map((one) =>
      outOfSubgraph({ ...one, steps: steps + 1 }, link.origin_slot),
    );
    // The same subgraph may be in several nodes; then the editor in it is that of all of them.
    return found.every((one) => same(one, found[0])) ? found[0] : undefined;
  }
  const origin = graph.getNodeById(link.origin_id);
  if (!origin) return null;
  const wanted = type ?? node.inputs[index].type;
  return throughOutput({ node: origin, around, steps: steps + 1 }, link.origin_slot, wanted);
}

/**
 * @param {Position} position
 * @param {number} index of the subgraph node's input slot
 * @returns {Source}
 */
function outOfSubgraph(position, index) {
  const { node } = position;
  if (linkInto(node, index)) return throughInput(position, index);
  const name = node.inputs[index]?.widget?.name;
  const widget = name && node.widgets?.find((one) => one.name === name);
  return widget ? { value: widget.value } : null;
}

/**
 * @param {Position} position
 * @param {number} slot of the output
 * @param {SlotType} type
 * @returns {Source}
 */
function throughOutput({ node, around, steps }, slot, type) {
  const at = (/** @type {HostNode} */ next, via = around) => ({
    node: next,
    around: via,
    steps: steps + 1,
  });
  if (node.mode === MUTED) return null;
  if (node.mode === BYPASSED) {
    const index = bypassIndex(node, slot, type);
    return index < 0 ? null : throughInput(at(node), index);
  }
  if (node.isSubgraphNode?.()) {
    const { outputNode, link } = node.resolveSubgraphOutputLink(slot) ?? {};
    if (!outputNode || !link) return null;
    return throughOutput(at(outputNode, { node, around, steps }), link.origin_slot, type);
  }
  if (!node.isVirtualNode) return { node, slot };
  const other = node.resolveVirtualOutput?.(slot); // of another graph
  if (other) return throughOutput(at(other.node, null), other.slot, type);
  const link = node.getInputLink(slot); // a Get node answers with its Set node's
  const next = link && node.graph?.getNodeById(link.target_id);
  if (next) return throughInput(at(next), link.target_slot, type);
  return node.applyToGraph ? { node, slot } : null; // it writes its value into what it is linked to
}

/**
 * The input that a bypassed node's output passes on, -1 if there is none of its type.
 * @param {HostNode} node
 * @param {number} slot of the output
 * @param {SlotType} type
 */
function bypassIndex({ inputs, outputs }, slot, type) {
  if (type === "*" || type === "") return inputs.length > slot ? slot : 0;
  const fits = (/** @type {HostNode["inputs"][number] | undefined} */ input) =>
    input !== undefined &&
    LiteGraph.isValidConnection(input.type, outputs[slot].type) &&
    LiteGraph.isValidConnection(input.type, type);
  if (fits(inputs[slot])) return slot;
  const exact = inputs.findIndex((input) => input.type === type);
  return exact >= 0 ? exact : inputs.findIndex(fits);
}

/**
 * The subgraph nodes that show a graph.
 * @param {HostGraph} graph
 */
function subgraphNodes(graph) {
  /** @type {Position[]} */
  const found = [];
  const look = (/** @type {HostGraph} */ within, /** @type {Position | null} */ around) => {
    for (const node of within.nodes) {
      if (!node.isSubgraphNode?.()) continue;
      const position = { node, around, steps: 0 };
      if (node.subgraph === graph) found.push(position);
      look(node.subgraph, position);
    }
  };
  look(graph.rootGraph, null);
  return found;
}

/**
 * @param {Source} a
 * @param {Source} b
 */
const same = (a, b) =>
  a === b || (a && b && a.node === b.node && a.slot === b.slot && a.value === b.value);
