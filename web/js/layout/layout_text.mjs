// A layout as text: what is copied, and what a person, a program or a language model writes.

import { readValue, wasCorrected, writeValue } from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Subject} Subject */
/** @typedef {{key: import("./texts.mjs").TextKey, values?: Record<string, string | number>}} Problem */

const ELEMENT_SCALE = 1000; // a picture's width and height in an element's bbox
const NUMBER = String.raw`\s*(\d*\.?\d+)\s*`;
const LINE = new RegExp(`^(.*)[:：]${[NUMBER, NUMBER, NUMBER, NUMBER].join("[,，]")};?$`);

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
  const trimmed = text.trim();
  return /^[[{]/.test(trimmed) ? readJson(trimmed) : readLines(trimmed);
}

/**
 * Subjects of elements as Create Bounding Boxes and Ideogram's prompts have them.
 * @param {any} raw a list of them, or a prompt with one
 * @returns {unknown[] | null} null if it is something else
 */
function readElements(raw) {
  const elements = raw.compositional_deconstruction?.elements ?? raw.elements ?? raw;
  if (!Array.isArray(elements) || !Array.isArray(elements[0]?.bbox)) return null;
  return elements.map((element) => {
    const [y0, x0, y1, x1] = [element?.bbox].flat().map((value) => value / ELEMENT_SCALE);
    return { phrase: element?.desc ?? "", box: [x0, y0, x1, y1], weight: 1 };
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

/** @param {string} text */
function readLines(text) {
  const lines = text.split("\n").map((line) => line.trim());
  const found = lines.map((line) => LINE.exec(line));
  if (!found.some(Boolean)) return null;
  const subjects = [];
  for (const [i, match] of found.entries()) {
    if (!lines[i]) continue;
    const [x0, y0, x1, y1] = (match ?? []).slice(2).map(Number);
    if (!match || !(x0 < x1 && y0 < y1 && x1 <= 1 && y1 <= 1))
      return { key: /** @type {const} */ ("textLine"), values: { n: i + 1 } };
    subjects.push({ phrase: match[1].trim(), box: [x0, y0, x1, y1], weight: 1 });
  }
  const { subjects: read, fault } = readValue({ subjects });
  return fault ? { key: fault } : { subjects: read, single: false };
}
