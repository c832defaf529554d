// The node's growing sockets: a reference, a mask of it and a region for each subject.

import { MAX_SUBJECTS } from "../layout/value.mjs";
import { linkOf, slotOf } from "./links.mjs";

/** @typedef {import("./links.mjs").HostNode} HostNode */

/** @param {number} index of the subject */
export const referenceSocket = (index) => `references.reference_${index + 1}`;
/** @param {number} index */
export const maskSocket = (index) => `reference_masks.reference_mask_${index + 1}`;
/** @param {number} index */
export const regionSocket = (index) => `regions.region_${index + 1}`;

const ORDER = ["references.", "reference_masks.", "regions.", "boxes", "width", "height"];

/**
 * Ids of the references' links, as far as they are connected without a gap.
 * @param {HostNode} node
 */
export function referenceLinks(node) {
  const links = [];
  while (links.length < MAX_SUBJECTS) {
    const link = linkOf(node, referenceSocket(links.length));
    if (!link) break;
    links.push(link.id);
  }
  return links;
}

/**
 * Whether a reference is connected behind one that isn't: the host hasn't moved it up yet.
 * @param {HostNode} node
 */
export function hasReferenceGap(node) {
  for (let index = referenceLinks(node).length + 1; index < MAX_SUBJECTS; index++)
    if (linkOf(node, referenceSocket(index))) return true;
  return false;
}

/**
 * Disconnect all that belongs to a subject.
 * @param {HostNode} node
 * @param {number} index
 */
export function disconnectSubject(node, index) {
  // From the last group to the first: the host moves later links up by the slots' present indices.
  for (const name of [regionSocket(index), maskSocket(index), referenceSocket(index)])
    if (linkOf(node, name)) node.disconnectInput(slotOf(node, name));
}

/**
 * Put the sockets in order: loading makes the host move growing ones behind the others, or between
 * them. Each link goes with its socket.
 * @param {HostNode} node
 */
export function sortSockets(node) {
  const sockets = [...node.inputs];
  const sorted = [...sockets].sort((a, b) => {
    const [[group, number], [otherGroup, otherNumber]] = [rank(a.name), rank(b.name)];
    return group - otherGroup || number - otherNumber;
  });
  if (sorted.every((socket, i) => socket === sockets[i])) return;
  const linked = sorted.flatMap((socket) => {
    const link = linkOf(node, socket.name);
    return link ? [{ socket, link }] : [];
  });
  // First to free slots: in newer front ends no two links may end in the same one.
  for (const [i, { link }] of linked.entries()) link.target_slot = sockets.length + i;
  node.inputs.splice(0, sockets.length, ...sorted);
  for (const { socket, link } of linked) link.target_slot = sorted.indexOf(socket);
}

/**
 * Where a socket belongs: its group, and its number there.
 * @param {string} name
 */
function rank(name) {
  const group = ORDER.findIndex((start) => name.startsWith(start));
  return [group < 0 ? ORDER.length : group, Number(/\d*$/.exec(name)?.[0])];
}
