// The host calls what an object has; ours comes after its own.

/**
 * Call `then` after an object's own handler.
 * @param {any} object
 * @param {string} name
 * @param {(...given: any[]) => void} then
 */
export function after(object, name, then) {
  const own = object[name];
  object[name] = function (/** @type {any[]} */ ...given) {
    const result = own?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}
