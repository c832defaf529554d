// The layout's value as workflow files hold it:
//   {"version": 1 or 2, "subjects": [{"phrase": text, "box": [x0, y0, x1, y1] or null, "weight": number,
//    "off": true where it is left out of the run,
//    "polygon": [[x, y], ...] where it has a shape, with the box around it,
//    "front": 1 to 16 where it was brought to the front: higher ones are in front of lower ones, and of
//    all others}]}
// Boxes are normalised: in 0..1 from the picture's top left corner. nodes/layout/boxes.py reads the same.

/** @typedef {[number, number, number, number]} Box x0, y0, x1, y1 in 0..1 */
/** @typedef {[number, number][]} Polygon points x, y in 0..1 */
/** @typedef {{box: Box | null, polygon?: Polygon}} Shape a polygon's box is the one around it */
/** @typedef {Shape & {phrase: string, weight: number, off?: true, front?: number}} Subject off: not in the run */
/** @typedef {"newer" | "unreadable" | "tooMany"} Fault why a value can't be edited */

export const VERSION = 2; // the newest
const FIRST_VERSION = 1; // which knows neither off nor front
export const MAX_SUBJECTS = 16;
export const MAX_LETTERS = 500; // of a phrase
export const MAX_WEIGHT = 10;
export const MIN_EDGE = 0.01; // of a box
export const MAX_POINTS = 1000; // of a polygon

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** @type {(value: unknown) => value is number} */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// Five decimals, rounded inwards: an edge on a cell's edge must not reach into the next cell.
const up = (/** @type {number} */ value) => Math.ceil(value * 1e5 - 1e-6) / 1e5 + 0; // never -0
const down = (/** @type {number} */ value) => Math.floor(value * 1e5 + 1e-6) / 1e5;

/**
 * A box with its edges rounded as the value holds them.
 * @param {Box} box
 * @returns {Box}
 */
export const rounded = ([x0, y0, x1, y1]) => [up(x0), up(y0), down(x1), down(y1)];

/** @type {(point: [number, number]) => [number, number]} */
const roundedPoint = ([x, y]) => [Math.round(x * 1e4) / 1e4, Math.round(y * 1e4) / 1e4];

/**
 * Read a value that may come from anyone's workflow file.
 * @param {any} raw
 * @returns {{subjects: Subject[], fault: Fault | null}} fresh subjects with valid values in the known
 *   fields; or none, and the reason why the value can't be edited
 */
export function readValue(raw) {
  if (raw === undefined || raw === null) return { subjects: [], fault: null };
  if (typeof raw !== "object") return { subjects: [], fault: "unreadable" };
  const { version = FIRST_VERSION } = raw;
  if (![FIRST_VERSION, VERSION].includes(version)) return { subjects: [], fault: "newer" };
  if (!Array.isArray(raw.subjects)) return { subjects: [], fault: "unreadable" };
  if (raw.subjects.length > MAX_SUBJECTS) return { subjects: [], fault: "tooMany" };
  if (!raw.subjects.every((/** @type {unknown} */ one) => one && typeof one === "object"))
    return { subjects: [], fault: "unreadable" };
  return { subjects: raw.subjects.map(readSubject), fault: null };
}

/**
 * @param {any} raw
 * @returns {Subject}
 */
function readSubject(raw) {
  const polygon = readPolygon(raw.polygon);
  return {
    phrase: typeof raw.phrase === "string" ? raw.phrase.slice(0, MAX_LETTERS) : "",
    box: polygon ? readBox(boxAround(polygon)) : readBox(raw.box),
    weight: isNumber(raw.weight) ? clamp(raw.weight, 0, MAX_WEIGHT) : 1,
    ...(raw.off === true && { off: true }),
    ...(polygon && { polygon }),
    ...(isFront(raw.front) && { front: raw.front }),
  };
}

/** @param {unknown} raw */
const isFront = (raw) => Number.isInteger(raw) && Number(raw) > 0 && Number(raw) <= MAX_SUBJECTS;

/**
 * A list of points in the picture, as many as there may be, not all on one edge; all else is none.
 * @param {unknown} raw
 * @returns {Polygon | null}
 */
function readPolygon(raw) {
  const isEdge = (/** @type {unknown} */ value) => isNumber(value) && value >= 0 && value <= 1;
  const isPoint = (/** @type {unknown} */ point) =>
    Array.isArray(point) && point.length === 2 && point.every(isEdge);
  if (!Array.isArray(raw) || raw.length < 3 || raw.length > MAX_POINTS || !raw.every(isPoint))
    return null;
  const [x0, y0, x1, y1] = boxAround(/** @type {Polygon} */ (raw));
  return x0 < x1 && y0 < y1 ? raw.map(([x, y]) => [x, y]) : null;
}

/**
 * The box around points.
 * @param {Polygon} points
 * @returns {Box}
 */
export function boxAround(points) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/**
 * Four finite numbers in any order become a box with an area inside the picture; all else is none.
 * @param {unknown} raw
 * @returns {Box | null}
 */
export function readBox(raw) {
  if (!Array.isArray(raw) || raw.length !== 4 || !raw.every(isNumber)) return null;
  if (raw.every((value) => value === 0)) return null; // no box, as the server reads it
  const [a, b, c, d] = raw.map((value) => clamp(value, 0, 1));
  const [[x0, x1], [y0, y1]] = [span(a, c), span(b, d)];
  return [x0, y0, x1, y1];
}

/**
 * Two ends in order, at least MIN_EDGE apart, in 0..1.
 * @param {number} a
 * @param {number} b
 */
function span(a, b) {
  const low = Math.min(a, b, 1 - MIN_EDGE);
  return [low, Math.max(a, b, low + MIN_EDGE)];
}

/**
 * Whether reading a value had to correct it.
 * @param {Subject[]} subjects as read from `raw`
 * @param {any} raw
 */
export function wasCorrected(subjects, raw) {
  const isZero = (/** @type {unknown} */ box) =>
    Array.isArray(box) && box.every((edge) => edge === 0);
  const fields = (/** @type {any} */ { phrase = "", box, weight = 1, off = false, ...more }) => [
    phrase,
    more.polygon || isZero(box) ? null : (box ?? null), // a polygon goes before its box
    weight,
    off,
    more.polygon ?? null,
    more.front ?? 0,
  ];
  return JSON.stringify(subjects.map(fields)) !== JSON.stringify((raw?.subjects ?? []).map(fields));
}

/**
 * The value that goes into the workflow: of the first version where that is enough, since an older
 * pack would make another picture of what it doesn't know. Without a polygon it has the box.
 * @param {Subject[]} subjects
 */
export function writeValue(subjects) {
  return {
    version: subjects.some(({ off, front }) => off || front) ? VERSION : FIRST_VERSION,
    subjects: subjects.map(({ phrase, box, weight, off, polygon, front }) => {
      const points = polygon?.map(roundedPoint);
      return {
        phrase,
        box: points ? boxAround(points) : box && rounded(box),
        weight,
        ...(off && { off }),
        ...(points && { polygon: points }),
        ...(front && { front }),
      };
    }),
  };
}
