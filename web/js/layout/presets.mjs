// Layouts of the authors' benchmark (msdiffusion/dataset/prompts/msbench.py of the research code), and
// the common ones. Box 1 is the first subject's, in reading order: left to right, then top to bottom;
// what lies behind everything comes last.

import { setShape } from "./polygon.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Subject} Subject */
/** @typedef {keyof typeof PRESETS} PresetName */

/** @type {(...boxes: Box[]) => Box[]} */
const boxes = (...all) => all;

// biome-ignore format: a preset a line
export const PRESETS = {
  oneInTheMiddle: boxes([0.25, 0.25, 0.75, 0.75]),
  twoSideBySide: boxes([0, 0.25, 0.4, 0.75], [0.6, 0.25, 1, 0.75]),
  twoTouching: boxes([0, 0.25, 0.5, 0.75], [0.5, 0.25, 1, 0.75]),
  threeInARow: boxes([0, 0.25, 0.35, 0.75], [0.35, 0.25, 0.65, 0.75], [0.65, 0.25, 1, 0.75]),
  fourInASquare: boxes([0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]),
  subjectOnBackground: boxes([0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]),
  twoOnBackground: boxes([0, 0.25, 0.5, 0.75], [0.5, 0.25, 1, 0.75], [0, 0, 1, 1]),
  topMiddleBottom: boxes([0.25, 0, 0.75, 0.25], [0.25, 0.25, 0.75, 0.6], [0.25, 0.6, 0.75, 1]),
  topAndTrousers: boxes([0.25, 0.25, 0.75, 0.6], [0.25, 0.6, 0.75, 1]),
  hatAndWearer: boxes([0.25, 0, 0.75, 0.25], [0.25, 0.25, 0.75, 0.75]),
  wearerAndTop: boxes([0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.75]),
  wearerAndDress: boxes([0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 1]),
};

export const PRESET_NAMES = /** @type {PresetName[]} */ (Object.keys(PRESETS));

/**
 * Give a preset's boxes to subjects; phrases and weights stay, further subjects too.
 * @param {Subject[]} subjects
 * @param {PresetName} name
 * @returns {Subject[]}
 */
export function applyPreset(subjects, name) {
  const preset = PRESETS[name];
  return Array.from({ length: Math.max(preset.length, subjects.length) }, (_, i) => {
    const subject = { ...(subjects[i] ?? { phrase: "", box: null, weight: 1 }) };
    if (preset[i]) setShape(subject, { box: [...preset[i]] });
    return subject;
  });
}
