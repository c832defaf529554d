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

const OTHERS = [maskSocket, regionSocket]; // of a subject, besides its reference
/** A subject's sockets by its index, a group each. */
const GROUPS = [referenceSocket, ...OTHERS];
const INDICES = Array.from({ length: MAX_SUBJECTS }, (_, index) => index);
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
 * Disconnect all that belongs to a subject; what belongs to later ones moves up.
 * @param {HostNode} node
 * @param {number} index
 */
export function disconnectSubject(node, index) {
  const last = INDICES.findLast((i) => GROUPS.some((socketOf) => linkOf(node, socketOf(i)))) ?? -1;
  if (index > last) return; // nothing does
  // Behind the others first: where it has no mask, the host wouldn't move the masks of later ones.
  reorderSockets(node, [...INDICES.filter((i) => i !== index && i <= last), index]);
  for (const socketOf of GROUPS) {
    const name = socketOf(last);
    if (linkOf(node, name)) node.disconnectInput(slotOf(node, name));
  }
}

/**
 * The links into a subject's sockets, null where there is none.
 * @param {HostNode} node
 * @param {number} index
 */
export const subjectLinks = (node, index) =>
  GROUPS.map((socketOf) => linkOf(node, socketOf(index)));

/**
 * Connect a subject with what links of the same graph come from, the host's reroutes included.
 * @param {HostNode} node
 * @param {number} index
 * @param {ReturnType<typeof subjectLinks>} links as of `subjectLinks`
 */
export function connectSubject(node, index, links) {
  for (const [group, link] of links.entries()) {
    const { graph } = node;
    if (!link || !graph) continue;
    addSockets(node, GROUPS[group], index);
    const slot = slotOf(node, GROUPS[group](index));
    if (link.originIsIoNode && !graph.isRootGraph)
      /** @type {any} */ (graph).inputs[link.origin_slot].connect(node.inputs[slot], node);
    else graph.getNodeById(link.origin_id)?.connect(link.origin_slot, node, slot, link.parentId);
  }
}

/**
 * Sort the subjects' sockets, with their links, into another order of the subjects.
 * @param {HostNode} node
 * @param {number[]} order earlier indices of the subjects
 */
export function reorderSockets(node, order) {
  for (const socketOf of GROUPS)
    moveLinks(node, socketOf, (from) => (order.includes(from) ? order.indexOf(from) : from));
  sortSockets(node);
}

/**
 * Keep masks and regions with their subjects, where the host has moved the references up, or links of
 * the same group.
 * @param {HostNode} node
 * @param {ReturnType<typeof otherLinks>} before
 * @param {number[] | null} order earlier indices of the subjects; null if they are as before
 */
export function keepLinks(node, before, order) {
  for (const [group, now] of otherLinks(node).entries()) {
    const known = before[group];
    const isNew = now.some((link) => link !== null && !known.includes(link));
    const isLess = now.filter(isLink).length < known.filter(isLink).length;
    if (isNew || !(order || isLess)) continue; // somebody has moved them on purpose
    moveLinks(node, OTHERS[group], (from) => {
      const subject = known.indexOf(now[from]);
      return order?.includes(subject) ? order.indexOf(subject) : subject;
    });
  }
  sortSockets(node);
}

/** @param {unknown} link */
const isLink = (link) => link !== null;

/**
 * Ids of the links of masks and of regions, by the subject's index; null where there is none.
 * @param {HostNode} node
 */
export const otherLinks = (node) =>
  OTHERS.map((socketOf) => INDICES.map((index) => linkOf(node, socketOf(index))?.id ?? null));

/**
 * Move the links of a group to other sockets of it, by the sockets' names.
 * @param {HostNode} node
 * @param {(index: number) => string} socketOf
 * @param {(from: number) => number} target
 */
function moveLinks(node, socketOf, target) {
  const linked = INDICES.filter((index) => linkOf(node, socketOf(index)));
  if (linked.every((from) => target(from) === from)) return;
  addSockets(node, socketOf, Math.min(MAX_SUBJECTS - 1, Math.max(...linked.map(target)) + 1));
  const free = INDICES.filter((index) => !linked.some((from) => target(from) === index));
  const sockets = INDICES.map((index) => node.inputs[slotOf(node, socketOf(index))]);
  for (const [from, socket] of sockets.entries()) {
    const to = linked.includes(from) ? target(from) : free.shift();
    if (socket && to !== undefined) Object.assign(socket, renamed(socket, socketOf(to)));
  }
}

/** The host shows a socket's name without its group. @param {string} name */
const shownName = (name) => name.slice(name.indexOf(".") + 1);

/**
 * What a socket is called as another one of its group, without what a user calls it.
 * @param {HostNode["inputs"][number]} socket
 * @param {string} name
 */
function renamed(socket, name) {
  /** @type {Pick<typeof socket, "name" | "label" | "localized_name">} */
  const names = { name };
  for (const key of /** @type {const} */ (["label", "localized_name"]))
    if (socket[key] === socket.name) names[key] = name;
    else if (socket[key] === shownName(socket.name)) names[key] = shownName(name);
  return names;
}

/**
 * Add what is missing of a group's sockets; the host adds one at a time, when the last is connected.
 * They are called as by the host, which else would do so when it loads them: a step of its own to undo.
 * @param {HostNode} node
 * @param {(index: number) => string} socketOf
 * @param {number} last index of the last one needed
 */
export function addSockets(node, socketOf, last) {
  for (let index = 1; index <= last; index++) {
    if (slotOf(node, socketOf(index)) >= 0) continue;
    const previous = node.inputs[slotOf(node, socketOf(index - 1))];
    const { type, shape } = previous;
    node.addInput(socketOf(index), type, {
      ...renamed(previous, socketOf(index)),
      ...(shape !== undefined && { shape }),
    });
  }
  sortSockets(node);
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
