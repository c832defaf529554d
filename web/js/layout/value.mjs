// The layout's value as it stands in workflow files:
//   {"version": 1, "subjects": [{"phrase": text, "box": [x0, y0, x1, y1] or null, "weight": number}]}
// A box is in shares of the picture from its top left corner. nodes/boxes.py reads the same form.

export const VERSION = 1;
export const MOST_SUBJECTS = 16;
export const MOST_LETTERS = 500;
export const SMALLEST = 0.01; // edge of a box
export const HEAVIEST = 10;

// Layouts of the authors' benchmark (msdiffusion/dataset/prompts/msbench.py of the research code), and
// the common ones. Box 1 is the first subject's, in reading order: left to right, then top to bottom;
// what lies behind everything comes last.
export const PRESETS = {
  oneInTheMiddle: [[0.25, 0.25, 0.75, 0.75]],
  twoSideBySide: [[0, 0.25, 0.4, 0.75], [0.6, 0.25, 1, 0.75]],
  twoTouching: [[0, 0.25, 0.5, 0.75], [0.5, 0.25, 1, 0.75]],
  threeInARow: [[0, 0.25, 0.35, 0.75], [0.35, 0.25, 0.65, 0.75], [0.65, 0.25, 1, 0.75]],
  fourInASquare: [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]],
  subjectOnBackground: [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]],
  twoOnBackground: [[0, 0.25, 0.5, 0.75], [0.5, 0.25, 1, 0.75], [0, 0, 1, 1]],
  topMiddleBottom: [[0.25, 0, 0.75, 0.25], [0.25, 0.25, 0.75, 0.6], [0.25, 0.6, 0.75, 1]],
  topAndTrousers: [[0.25, 0.25, 0.75, 0.6], [0.25, 0.6, 0.75, 1]],
  hatAndWearer: [[0.25, 0, 0.75, 0.25], [0.25, 0.25, 0.75, 0.75]],
  wearerAndTop: [[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.75]],
  wearerAndDress: [[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 1]],
};

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
// Five decimals, inwards: an edge that lies on a cell's edge must not reach into the next cell.
const up = (value) => Math.ceil(value * 1e5 - 1e-6) / 1e5;
const down = (value) => Math.floor(value * 1e5 + 1e-6) / 1e5;
const written = ([x0, y0, x1, y1]) => [up(x0), up(y0), down(x1), down(y1)];

/**
 * Read a value that may come from anyone's workflow file.
 * @returns {{subjects: object[], fault: string | null}} fresh subjects of known fields with sound
 *   values; or none, and why the value can't be edited: "newer", "unreadable" or "tooMany".
 */
export function readValue(raw) {
  if (raw === undefined || raw === null) return { subjects: [], fault: null };
  if (typeof raw !== "object") return { subjects: [], fault: "unreadable" };
  if ((raw.version ?? VERSION) !== VERSION) return { subjects: [], fault: "newer" };
  if (!Array.isArray(raw.subjects)) return { subjects: [], fault: "unreadable" };
  if (raw.subjects.length > MOST_SUBJECTS) return { subjects: [], fault: "tooMany" };
  if (!raw.subjects.every((subject) => subject && typeof subject === "object"))
    return { subjects: [], fault: "unreadable" };
  return { subjects: raw.subjects.map(readSubject), fault: null };
}

/** Whether subjects, read from a value, say other than the value does. */
export function wasCorrected(subjects, raw) {
  const zeros = (box) => Array.isArray(box) && box.every((edge) => edge === 0);
  const said = ({ phrase = "", box, weight = 1 }) => [phrase, zeros(box) ? null : (box ?? null), weight];
  return JSON.stringify(subjects.map(said)) !== JSON.stringify((raw?.subjects ?? []).map(said));
}

function readSubject(raw) {
  return {
    phrase: typeof raw.phrase === "string" ? raw.phrase.slice(0, MOST_LETTERS) : "",
    box: readBox(raw.box),
    weight: isNumber(raw.weight) ? clamp(raw.weight, 0, HEAVIEST) : 1,
  };
}

/** Four finite numbers in any order become a box with an area inside the picture; others, none. */
export function readBox(raw) {
  if (!Array.isArray(raw) || raw.length !== 4 || !raw.every(isNumber)) return null;
  if (!raw.some((value) => value !== 0)) return null; // all zeros: no box, as the server reads it
  const [a, b, c, d] = raw.map((value) => clamp(value, 0, 1));
  const [[x0, x1], [y0, y1]] = [span(a, c), span(b, d)];
  return [x0, y0, x1, y1];
}

/** Two ends in order, at least SMALLEST apart, inside 0..1. */
function span(a, b) {
  const low = Math.min(a, b, 1 - SMALLEST);
  return [low, Math.max(a, b, low + SMALLEST)];
}

/** The value that goes into the workflow. */
export function writeValue(subjects) {
  return {
    version: VERSION,
    subjects: subjects.map(({ phrase, box, weight }) => ({
      phrase,
      box: box && written(box),
      weight,
    })),
  };
}

/** Put a preset's boxes onto subjects; phrases and weights stay, further subjects too. */
export function applyPreset(subjects, name) {
  const boxes = PRESETS[name];
  return Array.from({ length: Math.max(boxes.length, subjects.length) }, (_, i) => ({
    phrase: subjects[i]?.phrase ?? "",
    box: boxes[i] ? [...boxes[i]] : subjects[i].box,
    weight: subjects[i]?.weight ?? 1,
  }));
}

/**
 * Cells per row and column of the coarsest cross-attention of SDXL, whose cells are 32 pixels wide;
 * each halving rounds up.
 */
export function grid(width, height) {
  const cells = (pixels) => [0, 0].reduce((n) => Math.ceil(n / 2), Math.floor(pixels / 8));
  return [Math.max(1, cells(width)), Math.max(1, cells(height))];
}

/**
 * First and last + 1 column and row of the cells that a box covers: start down, end up, in float32
 * as the server counts them (msd_core/layout.py).
 */
export function coveredCells(box, [columns, rows]) {
  const [x0, y0, x1, y1] = written(box).map((share, i) =>
    Math.fround(Math.fround(share) * (i % 2 ? rows : columns)),
  );
  return [Math.floor(x0), Math.floor(y0), Math.ceil(x1), Math.ceil(y1)];
}
