// Random numbers, the same in each run.

/** @param {number} seed */
export function numbersFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A box with edges of at least 0.01, anywhere in 0..1. @param {() => number} next */
export function boxFrom(next) {
  const [w, h] = [0.01 + 0.99 * next(), 0.01 + 0.99 * next()];
  const [x, y] = [(1 - w) * next(), (1 - h) * next()];
  return [x, y, x + w, y + h];
}
