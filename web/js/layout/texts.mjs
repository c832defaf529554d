// The editor's messages: English here, other languages in locales/<language>/main.json under
// "msDiffusion", which the server hands out.

/** @typedef {keyof typeof ENGLISH} TextKey */

export const ENGLISH = {
  canvas:
    "Layout. Draw a box for each subject with the mouse. Tab selects a box, arrows move it, " +
    "Control and arrows resize it, Delete clears it, Enter edits its phrase.",
  canvasRole: "layout editor",
  rows: "Subjects",
  presets: "Presets …",
  boxes: "Boxes",
  size: "Size",
  oneInTheMiddle: "One in the middle",
  twoSideBySide: "Two side by side",
  twoTouching: "Two side by side, touching",
  threeInARow: "Three in a row",
  fourInASquare: "Four in a square",
  subjectOnBackground: "Subject on a background",
  twoOnBackground: "Two on a background",
  topMiddleBottom: "Clothing: top, middle, bottom",
  topAndTrousers: "Clothing: top and trousers",
  hatAndWearer: "Clothing: hat and wearer",
  wearerAndTop: "Clothing: wearer and top",
  wearerAndDress: "Clothing: wearer and dress",
  clearBoxes: "Clear all boxes",
  distributeAcross: "Equal spaces, across",
  distributeDown: "Equal spaces, down",
  pixels: "The box in pixels",
  x: "Left edge in pixels",
  y: "Top edge in pixels",
  w: "Width in pixels",
  h: "Height in pixels",
  keepAspect: "Keep the aspect",
  lasso: "Lasso",
  lassoHint: "Draw any shape freehand, instead of a box",
  enlarged: "Enlarge",
  enlargedHint: "Fill the window, for detailed work; Escape goes back",
  snapping: "Snap",
  snappingHint: "Snap to the attention cells (32 pixels)",
  showCells: "Cells",
  showCellsHint: "Show the attention cells that each box covers",
  backdrop: "Result",
  backdropHint: "Show the last picture, and the preview of a run, behind the boxes",
  opacity: "Opacity of the picture behind the boxes",
  add: "+ Pictures",
  addHint: "Choose pictures, a subject each; or drop or paste them",
  choose: "Choose another picture, or drop one here",
  chooseFor: "Choose the reference of subject {n}",
  noPicture: "{name} is no picture that can be loaded.",
  noPictures: "{name} and {n} more are no pictures that can be loaded.",
  maskDropped: "The mask of subject {n} was that of its earlier picture: it is disconnected.",
  noSpace: "There can be 16 subjects; left out: {n}.",
  uploadFailed: "{name} couldn't be uploaded: {reason}.",
  tooLarge: "it has {size} MB, and the server takes {max} MB",
  drawHere: "Drop pictures here, or drag to draw a box for each subject",
  empty: "Drop a picture, connect a reference, or draw a box.",
  order:
    "Box 1 belongs to reference_1, and so on: left to right, then top to bottom, backgrounds last.",
  selectSubject: "Select subject {n}",
  moveHint: "Click to select, drag to move it with its reference",
  phrase: "what it is, in a word or two",
  phraseHint: "What the prompt calls the subject: dog, red backpack",
  absentHint: "The positive prompt doesn't say this. Put it there in the same words.",
  phraseOf: "Phrase of subject {n}",
  weight: "Weight",
  weightHint: "Higher is more like the reference",
  weightOf: "Weight of subject {n}",
  on: "on",
  onHint: "A run shows it; click to leave it out",
  off: "off",
  offHint: "A run leaves it out; click to show it again",
  offLabel: "{phrase} (off)",
  onOf: "Subject {n} in the run",
  allOff: "Every subject is off. Switch one on.",
  align: "Move the box to",
  left: "Left",
  centre: "Centre",
  right: "Right",
  top: "Top",
  middle: "Middle",
  bottom: "Bottom",
  swapBoxes: "Swap boxes with {n}: {phrase}",
  bringToFront: "Bring to front",
  sendBack: "Send back",
  boxFromMask: "Box from mask",
  paintMask: "Paint a mask",
  noMaskEditor: "The mask editor couldn't be opened: {reason}.",
  encoded: "As the encoder saw it",
  invertMask: "Invert mask?",
  invertMaskHint:
    "This mask keeps the border of the reference and leaves out the middle. Click to invert it.",
  switchOn: "Switch on",
  switchOff: "Switch off",
  copyLayout: "Copy layout as text",
  pasteLayout: "Paste layout from text",
  noLayout: "The clipboard holds no layout: its value, or lines phrase: x0,y0,x1,y1.",
  noClipboard: "The browser doesn't give the clipboard. Press Ctrl+V on the canvas.",
  textSubject: "Subject {n} of the text has values that don't fit. Nothing was changed.",
  textLine: "Line {n} isn't phrase: x0,y0,x1,y1 in 0..1. Nothing was changed.",
  remove: "Remove this subject",
  removeSubject: "Remove subject {n}",
  referenceOf: "Reference of subject {n}",
  noReferenceOf: "Subject {n} has no reference",
  box: "box",
  boxHint: "Its box says where it goes",
  shape: "shape",
  shapeHint: "Its shape says where it goes",
  mask: "mask",
  maskHint: "The mask on its region socket says where it goes",
  noBox: "no box",
  noBoxHint: "Draw a box for it on the canvas",
  noReference: "no reference",
  noReferenceHint: "A run leaves it out: its reference is unplugged, or muted or bypassed",
  leftOutLabel: "{phrase} (no reference)",
  noPhrase: "(no phrase)",
  missing: "Subject {n} has no {what} yet.",
  leftOut: "Subject {n} has no reference: a run leaves it out.",
  reference: "reference",
  phraseMissing: "phrase",
  boxMissing: "box",
  emptyRegion: "The mask on region_{n} is empty: paint it, or disconnect it.",
  linkedBoxes: "Boxes come from the link; these are from the last run.",
  linkedBoxesLive: "Boxes come from the link; edit them on Create Bounding Boxes.",
  linkedBoxesUnknown: "Boxes come from the link; they appear after a run.",
  newer: "A newer version of MS-Diffusion saved this layout. It is left unchanged.",
  unreadable: "This layout can't be read. It is left unchanged.",
  tooMany: "This layout has more than 16 subjects. It is left unchanged.",
  startOver: "Start over",
  corrected: "Some values in this layout are invalid; they are shown corrected.",
  correct: "Correct them",
  selected: "Subject {n}, {phrase}: {w} by {h} pixels at {x}, {y}",
};

/** @type {Partial<Record<TextKey, string>>} */
let translated = {};

/**
 * A message, its {names} replaced by values.
 * @param {TextKey} key
 * @param {Record<string, string | number>} values
 */
export function text(key, values = {}) {
  const words = translated[key] ?? ENGLISH[key];
  return words.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * Fetch the messages of the user's language; English stays where there are none.
 * @param {{fetchApi: (route: string) => Promise<Response>}} api
 * @param {() => unknown} getLanguage
 */
export async function loadTexts(api, getLanguage) {
  const language = String(getLanguage() ?? "en");
  const [family] = language.split("-");
  if (family === "en") return;
  const everything = await (await api.fetchApi("/i18n")).json();
  translated = (everything[language] ?? everything[family])?.msDiffusion ?? {};
}
