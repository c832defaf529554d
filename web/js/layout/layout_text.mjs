// A layout as text: what is copied, and what a person, a program or a language model writes.

import { readValue, wasCorrected, writeValue } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Subject} Subject */
/** @typedef {{key: import("./texts.mjs").TextKey, values?: Record<string, string | number>}} Problem */

const ELEMENT_SCALE = 1000; // a picture's width and height in an element's bbox
const FENCED = /^```\w*\n([\s\S]*)\n```$/; // as language models mark what is to be copied
const NUMBER = /^\d*\.?\d+$/;

/**
 * The layout's value, a subject a line.
 * @param {Subject[]} subjects
 */
export function layoutText(subjects) {
  const { version, subjects: written } = writeValue(subjects);
  const lines = written.map((subject) => `  ${JSON.stringify(subject)}`);
  return `{"version": ${version}, "subjects": [\n${lines.join(",\n")}\n]}`;
}

/**
 * A subject alone, as the value holds it.
 * @param {Subject} subject
 */
export const subjectText = (subject) => JSON.stringify(writeValue([subject]).subjects[0]);

/**
 * Read the layout's value, a list of its subjects, one of them, lines `phrase: x0,y0,x1,y1`, or
 * elements of a prompt.
 * @param {string} text
 * @returns {{subjects: Subject[], single: boolean} | Problem | null} single: it was a subject alone;
 *   null: it is something else
 */
export function readText(text) {
  const trimmed = text.trim().replace(FENCED, "$1").trim();
  return /^[[{]/.test(trimmed) ? readJson(trimmed) : readLines(trimmed);
}

/**
 * Subjects of elements as Create Bounding Boxes and Ideogram's prompts have them; those without a box
 * are no subjects.
 * @param {any} raw a list of them, or a prompt with one
 * @returns {unknown[] | null} null if it is something else
 */
function readElements(raw) {
  const elements = raw.compositional_deconstruction?.elements ?? raw.elements ?? raw;
  if (!Array.isArray(elements)) return null;
  const placed = elements.filter((element) => element?.bbox !== undefined);
  if (!placed.length) return null;
  return placed.map(({ bbox, desc }) => {
    const [y0, x0, y1, x1] = [bbox].flat().map((value) => value / ELEMENT_SCALE);
    return { phrase: desc ?? "", box: [x0, y0, x1, y1], weight: 1 };
  });
}

/** @param {string} text */
function readJson(text) {
  let raw;
  try {
    raw = JSON.parse(text);
  } catch {
    return null;
  }
  raw = readElements(raw) ?? raw;
  const single = !Array.isArray(raw) && !("subjects" in raw);
  const value = Array.isArray(raw) ? { subjects: raw } : single ? { subjects: [raw] } : raw;
  const first = Array.isArray(value.subjects) && value.subjects[0];
  if (!first || (first.box === undefined && first.phrase === undefined)) return null;
  const { subjects, fault } = readValue(value);
  if (fault) return { key: fault };
  const wrong = subjects.findIndex((one, i) =>
    wasCorrected([one], { subjects: [value.subjects[i]] }),
  );
  return wrong < 0
    ? { subjects, single }
    : { key: /** @type {const} */ ("textSubject"), values: { n: wrong + 1 } };
}

/**
 * @param {string} line `phrase: x0,y0,x1,y1`, the numbers in brackets or not
 * @returns {{phrase: string, box: number[], weight: number} | null}
 */
function readLine(line) {
  const colon = Math.max(line.lastIndexOf(":"), line.lastIndexOf("："));
  const place = line
    .slice(colon + 1)
    .replace(/;$/, "")
    .trim();
  const bare = /^(?:\[.*\]|\(.*\))$/.test(place) ? place.slice(1, -1) : place;
  const numbers = bare.split(/[,，]/).map((number) => number.trim());
  if (colon < 0 || numbers.length !== 4 || !numbers.every((one) => NUMBER.test(one))) return null;
  return { phrase: line.slice(0, colon).trim(), box: numbers.map(Number), weight: 1 };
}

/** @param {string} text */
function readLines(text) {
  const lines = text.split("\n").map((line) => line.trim());
  const found = lines.map(readLine);
  if (!found.some(Boolean)) return null;
  const subjects = [];
  for (const [i, subject] of found.entries()) {
    if (!lines[i]) continue;
    const [x0, y0, x1, y1] = subject?.box ?? [];
    if (!subject || !(x0 < x1 && y0 < y1 && x1 <= 1 && y1 <= 1))
      return { key: /** @type {const} */ ("textLine"), values: { n: i + 1 } };
    subjects.push(subject);
  }
  const { subjects: read, fault } = readValue({ subjects });
  return fault ? { key: fault } : { subjects: read, single: false };
}
