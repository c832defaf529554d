// The order of subjects is that of their references.

/**
 * How to sort subjects as their references are now. Those that lost their reference go to the end.
 * @param {number} length of the subjects' list
 * @param {number[]} remaining earlier indices of the subjects that still have a reference
 * @param {number} count how many had one before
 * @returns {number[] | null} earlier indices in their new order; null if nothing moves or fits
 */
export function orderByReferences(length, remaining, count) {
  const all = Array.from({ length }, (_, i) => i);
  const order = [
    ...remaining,
    ...all.filter((i) => i >= count),
    ...all.filter((i) => i < count && !remaining.includes(i)),
  ];
  const same = order.every((from, to) => from === to);
  return order.length !== length || same ? null : order;
}
