/**
 * Call a function after some frames.
 * @param {number} count
 * @param {() => void} then
 */
export function afterFrames(count, then) {
  requestAnimationFrame(() => (count > 1 ? afterFrames(count - 1, then) : then()));
}

export const nextFrame = () => new Promise(requestAnimationFrame);
