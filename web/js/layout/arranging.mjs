// Subjects that move in the list or are copied, with what they are connected with.

import { offsetBox } from "./geometry.mjs";
import { orderByReferences } from "./order.mjs";
import { fitShape, setShape } from "./polygon.mjs";

/** @typedef {import("./subjects.mjs").Subjects} Subjects */

/**
 * Whether a run leaves a subject out for want of a reference, while others have theirs.
 * @param {Subjects} subjects
 * @param {number} index
 */
export function isLeftOut({ host, list }, index) {
  if (!list[index] || host.reference(index).linked) return false;
  return list.some((_, i) => host.reference(i).linked);
}

/**
 * Where a subject goes that is moved: those with a reference stay before those without.
 * @param {Subjects} subjects
 * @param {number} from
 * @param {number} to
 */
export function placeOf({ host }, from, to) {
  const count = host.referenceCount();
  return from < count ? Math.min(to, count - 1) : Math.max(to, count);
}

/**
 * Put a subject at another place in the list.
 * @param {Subjects} subjects
 * @param {number} from
 * @param {number} to
 */
export function moveRow(subjects, from, to) {
  const target = placeOf(subjects, from, to);
  if (!subjects.editable || target === from || !subjects.list[target]) return;
  sort(subjects, from, target);
  subjects.selected = target;
  subjects.store();
}

/**
 * Sort the subjects as their references are now. Those that lost their reference go to the end.
 * @param {Subjects} subjects
 * @param {number[]} remaining earlier indices of the subjects that still have a reference
 * @param {number} count how many had one before
 * @returns {number[] | null} earlier indices of the subjects; null if nothing moved
 */
export function followReferences(subjects, remaining, count) {
  const { list } = subjects;
  const order = orderByReferences(list.length, remaining, count);
  if (!subjects.editable || !order) return null;
  subjects.list = order.map((i) => list[i]);
  subjects.selected = -1;
  subjects.store();
  return order;
}

/**
 * @param {Subjects} subjects
 * @param {number} from
 * @param {number} to
 */
function sort(subjects, from, to) {
  const order = [...subjects.list.keys()];
  order.splice(to, 0, ...order.splice(from, 1));
  subjects.list = order.map((i) => subjects.list[i]);
  if (from !== to) subjects.host.onReorder(order);
}

/**
 * Whether a subject was brought to the front, and no other after it.
 * @param {Subjects} subjects
 * @param {number} index
 */
export const isInFront = ({ fronts }, index) =>
  fronts[index] > Math.max(0, ...fronts.filter((_, i) => i !== index));

/**
 * Put a subject's box in front of all others.
 * @param {Subjects} subjects
 * @param {number} index
 */
export function bringToFront(subjects, index) {
  const { fronts, list } = subjects;
  const brought = [...list.keys()].filter((i) => fronts[i] && i !== index);
  brought.sort((a, b) => fronts[a] - fronts[b]);
  for (const [at, i] of [...brought, index].entries()) list[i].front = at + 1;
  subjects.store();
}

/**
 * Let a subject's box be in front of larger ones only, as one that was never brought to the front.
 * @param {Subjects} subjects
 * @param {number} index
 */
export function sendBack(subjects, index) {
  delete subjects.list[index].front;
  subjects.store();
}

/**
 * Add a copy of a subject.
 * @param {Subjects} subjects
 * @param {number} index
 */
export function duplicate(subjects, index) {
  paste(subjects, subjects.list[index], subjects.host.wires(index));
}

/**
 * Add a copy of a subject, if there is space for one more.
 * @param {Subjects} subjects
 * @param {import("./value.mjs").Subject} subject
 * @param {import("./host.mjs").Wires} [wires] of the subject
 */
export function paste(subjects, subject, wires) {
  const { host, list } = subjects;
  if (subjects.full) return subjects.onFull();
  const copy = structuredClone(subject);
  if (copy.box) setShape(copy, fitShape(copy, offsetBox(copy.box)));
  subjects.selected = list.push(copy) - 1;
  if (wires && host.canConnect(wires)) {
    const target = host.referenceCount(); // before those that wait for theirs
    sort(subjects, subjects.selected, target);
    subjects.selected = target;
    host.connect(target, wires);
  }
  subjects.store();
}
