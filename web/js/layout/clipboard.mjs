// Layouts and subjects as text on the system's clipboard.

import { paste } from "./arranging.mjs";
import { layoutText, readText, subjectText } from "./layout_text.mjs";

/** The subject that was copied last, in any editor of the page. */
const copied = {
  text: "",
  /** @type {import("./host.mjs").Wires | undefined} */
  wires: undefined,
};

/**
 * Put text on the clipboard. The newer navigator.clipboard isn't there on plain http.
 * @param {string} text
 */
function write(text) {
  const put = (/** @type {ClipboardEvent} */ event) => {
    event.clipboardData?.setData("text/plain", text);
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  document.addEventListener("copy", put, { capture: true, once: true });
  document.execCommand("copy");
  document.removeEventListener("copy", put, { capture: true });
}

export class Clipboard {
  /**
   * @param {Pick<import("./host.mjs").Host, "text" | "wires">} host
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {import("./note.mjs").Note} note
   */
  constructor(host, subjects, note) {
    this.host = host;
    this.subjects = subjects;
    this.note = note;
  }

  copyLayout() {
    write(layoutText(this.subjects.list));
  }

  /** @param {number} index */
  copySubject(index) {
    copied.text = subjectText(this.subjects.list[index]);
    copied.wires = this.host.wires(index);
    write(copied.text);
  }

  /**
   * Take in a text: a subject alone is added, a layout's subjects take the place of the present ones.
   * @param {string} text
   * @returns {boolean} whether it was meant for the editor
   */
  take(text) {
    const { host, note, subjects } = this;
    const found = readText(text);
    if (!found) return false;
    if ("key" in found) note.say(host.text(found.key, found.values));
    else if (!found.single) subjects.useLayout(found.subjects);
    else paste(subjects, found.subjects[0], text === copied.text ? copied.wires : undefined);
    return true;
  }

  /** Ask the browser for the clipboard's text. */
  async paste() {
    const { host, note } = this;
    try {
      const text = await navigator.clipboard.readText();
      if (!this.take(text)) note.say(host.text("noLayout"));
    } catch {
      note.say(host.text("noClipboard"));
    }
  }
}
