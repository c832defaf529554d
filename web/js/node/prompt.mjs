// The positive prompt that goes with a layout's subjects, as far as the graph shows it.

import { linkInto } from "./links.mjs";
import { sourceOf, upstream } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */
/** @typedef {{node: HostNode, phrases: string}} Layout */

const MAX_REPLACES = 3; // Replace Text nodes in a row: links may go in a circle

/**
 * The texts that a sampler's or guider's positive conditioning is encoded from, where the sampler has
 * the layout's subjects.
 * @param {HostNode} layoutNode
 * @param {{phrase: string}[]} subjects
 * @returns {string | null} null where there is none, or not all of them can be read before a run
 */
export function positivePrompt(layoutNode, subjects) {
  const layout = { node: layoutNode, phrases: subjects.map(({ phrase }) => phrase).join("\n") };
  const texts = [];
  for (const node of layoutNode.graph?.nodes ?? []) {
    if (!node.inputs?.some(({ name }, i) => name === "positive" && linkInto(node, i))) continue;
    if (!upstream(node, () => true).has(layoutNode)) continue;
    const encoders = conditionings(node);
    const known = encoders.map((encoder) =>
      encoder.comfyClass === "CLIPTextEncode" ? textInto(encoder, "text", layout) : null,
    );
    texts.push(...known);
  }
  if (!texts.length || texts.includes(null)) return null;
  return texts.join("\n");
}

/**
 * The nodes that a sampler's positive conditioning begins with.
 * @param {HostNode} sampler
 */
function conditionings(sampler) {
  const first = sourceOf(sampler, "positive")?.node;
  if (!first) return [];
  const isConditioning = (/** @type {HostNode["inputs"][number]} */ input) =>
    input.type === "CONDITIONING" && input.name !== "negative";
  const all = [first, ...upstream(first, isConditioning)];
  return all.filter((node) => !node.inputs?.some(isConditioning));
}

/**
 * A text that a node is given, as far as the page can see.
 * @param {HostNode} node
 * @param {string} name of the input
 * @param {Layout} layout
 * @param {number} [replaces] that may follow
 * @returns {string | null}
 */
function textInto(node, name, layout, replaces = MAX_REPLACES) {
  const source = sourceOf(node, name);
  if (source === undefined) return null;
  if (source?.node) return textFrom(source.node, source.slot, layout, replaces);
  const widget = node.widgets?.find((one) => one.name === name);
  return asText(source ? source.value : widget?.value);
}

/**
 * A text that a node gives: the layout's phrases, Replace Text, or a node with nothing but a text.
 * @param {HostNode} node
 * @param {number} slot of the output
 * @param {Layout} layout
 * @param {number} replaces that may follow, this one among them
 * @returns {string | null}
 */
function textFrom(node, slot, layout, replaces) {
  if (node === layout.node) return node.outputs[slot].name === "phrases" ? layout.phrases : null;
  if (node.comfyClass === "StringReplace") {
    if (!replaces) return null;
    const [string, find, replace] = ["string", "find", "replace"].map((name) =>
      textInto(node, name, layout, replaces - 1),
    );
    if (string === null || find === null || replace === null) return null;
    return string.replaceAll(find, () => replace);
  }
  const isPlain = !node.inputs?.some(({ name }, i) => name !== "clip" && linkInto(node, i));
  const words = (node.widgets ?? []).filter(({ value }) => typeof value === "string");
  return isPlain && words.length === 1 ? asText(words[0].value) : null;
}

/** @param {unknown} value */
const asText = (value) => (typeof value === "string" ? value : null);
