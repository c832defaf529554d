// The colour of each subject: Okabe and Ito's, which people with colour blindness tell apart, as in
// the node's preview (nodes/layout/preview.py). No colour is read from a workflow.

export const COLOURS = [
  "#E69F00",
  "#56B4E9",
  "#009E73",
  "#F0E442",
  "#0072B2",
  "#D55E00",
  "#CC79A7",
  "#999999",
];

const DARK = ["#0072B2"]; // black isn't read well on it

/**
 * @param {number} index of the subject
 * @returns {string} as #RRGGBB
 */
export const colourOf = (index) => COLOURS[index % COLOURS.length];

/**
 * The colour of text on a subject's colour.
 * @param {number} index of the subject
 */
export const inkOn = (index) => (DARK.includes(colourOf(index)) ? "#fff" : "#000");

/**
 * Whether a subject's box is hatched and its number round, as others have its colour too.
 * @param {number} index of the subject
 */
export const isHatched = (index) => index >= COLOURS.length;
