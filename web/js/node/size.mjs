// Width and height of the picture, as the node will have them.

import { clamp } from "../layout/value.mjs";
import { linkInto } from "./links.mjs";
import { sourceOf } from "./sources.mjs";

// As the node takes them (nodes/layout/node.py)
export const MIN_SIZE = 16;
export const MAX_SIZE = 16384;
export const DEFAULT_SIZE = 1024;

/**
 * The number typed, or the one that comes from a link.
 * @param {import("./links.mjs").HostNode} node
 * @param {"width" | "height"} name
 * @param {number | undefined} lastRun what the last run had
 */
export function pixels(node, name, lastRun) {
  const source = sourceOf(node, name);
  const typed = node.widgets?.find((widget) => widget.name === name)?.value;
  const { value, certain } = numberFrom(source);
  const linked = certain ? value : (lastRun ?? value);
  const candidates = [source === null ? typed : linked, typed].map(Number);
  return clamp(candidates.find((one) => one > 0) ?? DEFAULT_SIZE, MIN_SIZE, MAX_SIZE);
}

/**
 * Type another size.
 * @param {import("./links.mjs").HostNode} node
 * @param {import("../layout/geometry.mjs").Size} size
 */
export function setPixels(node, [width, height]) {
  for (const widget of node.widgets ?? []) {
    if (widget.name !== "width" && widget.name !== "height") continue;
    widget.value = widget.name === "width" ? width : height;
    widget.callback?.(widget.value);
  }
}

/**
 * The number that a source gives, as far as its widgets show.
 * @param {import("./sources.mjs").Source} source
 * @returns {{value?: number, certain: boolean}} certain: it has no other number, and nothing linked
 */
function numberFrom(source) {
  if (!source) return { certain: false };
  const { node, slot } = source;
  if (!node) {
    const { value } = source;
    return isNumber(value) ? { value, certain: true } : { certain: false };
  }
  const widgets = (node.widgets ?? []).filter((widget) => isNumber(widget.value));
  const named = widgets.find((widget) => widget.name === node.outputs[slot]?.name);
  const isLinked = node.inputs?.some((_, index) => linkInto(node, index));
  const value = (named ?? widgets[0])?.value;
  return { value: isNumber(value) ? value : undefined, certain: widgets.length === 1 && !isLinked };
}

/** @type {(value: unknown) => value is number} */
const isNumber = (value) => typeof value === "number";
