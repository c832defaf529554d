// Where what comes in by a slot is from, as the prompt will have it: found the way the host builds the
// prompt, through reroutes and other nodes that only the front end knows, past bypassed nodes, into
// subgraphs and out of them. Links are asked of the host's methods: where they are kept has changed.

const [MUTED, BYPASSED] = [2, 4]; // modes of a node
const MAX_STEPS = 1000; // links in a circle have no source

/** Index of a node's input slot of this name, -1 where there is none. */
export const slotOf = (node, name) =>
  node.inputs?.findIndex((input) => input.name === name) ?? -1;

/** The link into a slot; null while `node` is in no graph, as a clone is when it gets its value. */
export function linkOf(node, name) {
  return node.graph ? linkInto(node, slotOf(node, name)) : null;
}

/**
 * What the prompt will have for a slot.
 * @returns {?{node: object, slot: number} | {value: unknown}} a node that runs, or a number source of
 *   the front end, and the slot it goes out by; or the value that stands on a subgraph; null if
 *   nothing comes; undefined where that can't be told before a run
 */
export function sourceOf(node, name) {
  const index = slotOf(node, name);
  return node.graph && index >= 0 ? throughInput({ node, around: null, steps: 0 }, index) : null;
}

/** The link into a slot. A subgraph's and a Get node's own method answers another question. */
function linkInto(node, index) {
  if (!node.inputs?.[index]) return null;
  return LiteGraph.LGraphNode.prototype.getInputLink.call(node, index) ?? null;
}

// A place in the graph is a node, `around`: the place of the subgraph's node through which it was
// reached (null: by none), and the steps that led there.

function throughInput({ node, around, steps }, index, type) {
  const link = linkInto(node, index);
  if (!link || steps > MAX_STEPS) return null;
  if (link.originIsIoNode) {
    const hosts = around ? [around] : subgraphNodes(node.graph);
    const found = hosts.map((host) => outOfSubgraph({ ...host, steps: steps + 1 }, link.origin_slot));
    // The same subgraph may stand in several places; then the editor in it is that of all of them.
    return found.every((one) => same(one, found[0])) ? found[0] : undefined;
  }
  const origin = node.graph.getNodeById(link.origin_id);
  if (!origin) return null;
  const wanted = type ?? node.inputs[index].type;
  return throughOutput({ node: origin, around, steps: steps + 1 }, link.origin_slot, wanted);
}

function outOfSubgraph(place, index) {
  const { node } = place;
  if (linkInto(node, index)) return throughInput(place, index);
  const name = node.inputs[index]?.widget?.name;
  const widget = name && node.widgets?.find((one) => one.name === name);
  return widget ? { value: widget.value } : null;
}

function throughOutput({ node, around, steps }, slot, type) {
  const at = (next, via = around) => ({ node: next, around: via, steps: steps + 1 });
  if (node.mode === MUTED) return null;
  if (node.mode === BYPASSED) {
    const index = bypassIndex(node, slot, type);
    return index < 0 ? null : throughInput(at(node), index);
  }
  if (node.isSubgraphNode?.()) {
    const { outputNode, link } = node.resolveSubgraphOutputLink(slot) ?? {};
    if (!outputNode) return null;
    return throughOutput(at(outputNode, { node, around }), link.origin_slot, type);
  }
  if (!node.isVirtualNode) return { node, slot };
  const other = node.resolveVirtualOutput?.(slot); // of another graph
  if (other) return throughOutput(at(other.node, null), other.slot, type);
  const link = node.getInputLink(slot); // a Get node answers with its Set node's
  const next = link && node.graph.getNodeById(link.target_id);
  if (next) return throughInput(at(next), link.target_slot, type);
  return node.applyToGraph ? { node, slot } : null; // it writes its value into what it is linked to
}

/** The input that a bypassed node's output passes on, -1 if there is none of its type. */
function bypassIndex({ inputs, outputs }, slot, type) {
  if (type === "*" || type === "") return inputs.length > slot ? slot : 0;
  const fits = (input) =>
    input &&
    LiteGraph.isValidConnection(input.type, outputs[slot].type) &&
    LiteGraph.isValidConnection(input.type, type);
  if (fits(inputs[slot])) return slot;
  const exact = inputs.findIndex((input) => input.type === type);
  return exact >= 0 ? exact : inputs.findIndex(fits);
}

/** The places of the subgraph nodes that show a graph. */
function subgraphNodes(graph) {
  const found = [];
  const look = (within, around) => {
    for (const node of within.nodes) {
      if (!node.isSubgraphNode?.()) continue;
      if (node.subgraph === graph) found.push({ node, around });
      look(node.subgraph, { node, around });
    }
  };
  look(graph.rootGraph, null);
  return found;
}

const same = (a, b) =>
  a === b || (a && b && a.node === b.node && a.slot === b.slot && a.value === b.value);

/**
 * The number that a source gives, as far as its widgets say.
 * @returns {{value?: number, certain: boolean}} certain: it has no other number, and nothing linked
 */
export function numberFrom(source) {
  if (!source) return { certain: false };
  const { node, slot } = source;
  if (!node) return { value: source.value, certain: isNumber(source.value) };
  const widgets = (node.widgets ?? []).filter((widget) => isNumber(widget.value));
  const named = widgets.find((widget) => widget.name === node.outputs[slot]?.name);
  const isLinked = node.inputs?.some((_, index) => linkInto(node, index));
  return { value: (named ?? widgets[0])?.value, certain: widgets.length === 1 && !isLinked };
}

const isNumber = (value) => typeof value === "number";
