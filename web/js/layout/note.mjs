// The line below the canvas: why nothing can be edited, or what is missing, or the order. Beside it, for
// those who don't see the canvas, the selected subject in words.

import { isLeftOut } from "./arranging.mjs";
import { element, textButton } from "./elements.mjs";
import { pixelsOf } from "./geometry.mjs";

/**
 * @typedef {object} Message
 * @property {string} words
 * @property {HTMLButtonElement} [button] that cures it
 * @property {boolean} [complete] whether the layout is complete
 */

export class Note {
  /**
   * @param {import("./host.mjs").Host} host
   * @param {import("./subjects.mjs").Subjects} subjects
   */
  constructor(host, subjects) {
    this.host = host;
    this.subjects = subjects;
    this.root = element("p", { className: "msd-note", role: "status" });
    this.notice = ""; // what to say until the user does something else
    this.spoken = element("p", { className: "msd-spoken", role: "status" });
  }

  /** @param {string} notice "" for none */
  say(notice) {
    if (this.notice === notice) return;
    this.notice = notice;
    this.refresh();
  }

  refresh() {
    const { words, button, complete = false } = this.message();
    const parts = button ? [`${words} `, button] : [words];
    // Only when it changes: screen readers repeat it, and a button in it would lose the focus.
    const shown = button ? `${words} ${button.textContent}` : words;
    if (shown !== this.root.textContent) this.root.replaceChildren(...parts);
    this.root.title = words; // it may be longer than there is space
    this.root.dataset.complete = String(complete);
    const spoken = this.describeSelected();
    if (spoken !== this.spoken.textContent) this.spoken.textContent = spoken;
  }

  describeSelected() {
    const { list, boxes, selected } = this.subjects;
    const [subject, box] = [list[selected], boxes[selected]];
    if (!subject || !box) return "";
    const { phrase } = subject;
    return this.host.text("selected", {
      n: selected + 1,
      phrase,
      ...pixelsOf(box, this.host.size()),
    });
  }

  /** @returns {Message} */
  message() {
    const { subjects } = this;
    const { text } = this.host;
    const { boxes, corrected, fault, list } = subjects;
    if (this.notice) return { words: this.notice };
    if (fault)
      return {
        words: text(fault),
        button: textButton(text("startOver"), () => subjects.startOver()),
      };
    if (corrected)
      return {
        words: text("corrected"),
        button: textButton(text("correct"), () => subjects.store()),
      };
    if (!subjects.boxesEditable) return { words: text(this.boxesKind(boxes.length)) };
    if (list.length && list.every(({ off }) => off)) return { words: text("allOff") };
    for (const [i, { off }] of list.entries()) {
      if (off) continue;
      if (isLeftOut(subjects, i)) return { words: text("leftOut", { n: i + 1 }) };
      const reference = this.host.reference(i);
      const { region, mask } = reference;
      if (region && mask && !mask.box) return { words: text("emptyRegion", { n: i + 1 }) };
      const missing = this.missingOf(i, reference);
      if (missing.length) return { words: text("missing", { n: i + 1, what: missing.join(", ") }) };
    }
    return { words: text(list.length ? "order" : "empty"), complete: list.length > 0 };
  }

  /** @param {number} count of linked boxes */
  boxesKind(count) {
    if (this.host.linkedBoxesLive()) return "linkedBoxesLive";
    return count ? "linkedBoxes" : "linkedBoxesUnknown";
  }

  /**
   * @param {number} index of a subject
   * @param {import("./host.mjs").Reference} reference
   */
  missingOf(index, { linked, region }) {
    const { text } = this.host;
    const { phrase, box } = this.subjects.list[index];
    const missing = [];
    if (!linked) missing.push(text("reference"));
    if (!phrase.trim()) missing.push(text("phraseMissing"));
    if (!region && !box) missing.push(text("boxMissing"));
    return missing;
  }
}
