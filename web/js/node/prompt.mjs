// The positive prompt that goes with a layout's subjects, as far as the graph shows it.

import { linkInto } from "./links.mjs";
import { sourceOf } from "./sources.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */

/**
 * The texts that a sampler's or guider's positive conditioning is encoded from, where the sampler has
 * the layout's subjects.
 * @param {HostNode} layout
 * @returns {string | null} null where there is none, or not all of them can be read before a run
 */
export function positivePrompt(layout) {
  const texts = [];
  for (const node of layout.graph?.nodes ?? []) {
    if (!node.inputs?.some(({ name }, i) => name === "positive" && linkInto(node, i))) continue;
    if (!upstream(node, () => true).has(layout)) continue;
    const encoders = conditionings(node);
    texts.push(...encoders.map(encodedText));
  }
  if (!texts.length || texts.includes(null)) return null;
  return texts.join("\n");
}

/**
 * All nodes that a node's inputs come from.
 * @param {HostNode} node
 * @param {(input: HostNode["inputs"][number]) => boolean} follows whether an input counts
 */
function upstream(node, follows) {
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
 * @param {HostNode} encoder
 * @returns {string | null}
 */
function encodedText(encoder) {
  if (encoder.comfyClass !== "CLIPTextEncode") return null;
  const source = sourceOf(encoder, "text");
  if (source === undefined) return null;
  const node = source ? source.node : encoder;
  if (!node) return asText(source?.value);
  const isPlain = !node.inputs?.some(({ name }, i) => name !== "clip" && linkInto(node, i));
  const words = (node.widgets ?? []).filter(({ value }) => typeof value === "string");
  return isPlain && words.length === 1 ? asText(words[0].value) : null;
}

/** @param {unknown} value */
const asText = (value) => (typeof value === "string" ? value : null);
