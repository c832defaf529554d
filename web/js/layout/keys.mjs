// The keys of the layout editor.

import { duplicate, moveRow } from "./arranging.mjs";
import { growBox, moveBox } from "./geometry.mjs";
import { gridOf } from "./grid.mjs";
import { fitShape, setShape } from "./polygon.mjs";

const NUDGE = 8; // pixels of the picture, one of its latent, that an arrow key moves by
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Keys {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.root of the editor
   * @param {import("./stage.mjs").Stage} parts.stage
   * @param {import("./subjects.mjs").Subjects} parts.subjects
   * @param {import("./gestures.mjs").Gestures} parts.gestures
   * @param {(index: number) => void} parts.focusPhrase
   * @param {() => void} parts.onChange an edit is complete
   * @param {import("./clipboard.mjs").Clipboard} parts.clipboard
   */
  constructor({ root, stage, subjects, gestures, focusPhrase, onChange, clipboard }) {
    this.stage = stage;
    this.subjects = subjects;
    this.gestures = gestures;
    this.focusPhrase = focusPhrase;
    this.clipboard = clipboard;
    root.addEventListener("keydown", (event) => this.onKey(event));
    stage.canvas.addEventListener("keyup", (event) => {
      if (ARROWS[event.key]) onChange();
    });
    stage.canvas.addEventListener("blur", onChange); // of an arrow key that is still held
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const typing = event.target instanceof HTMLInputElement;
    const command = event.ctrlKey || event.metaKey;
    // The host undoes by itself. The browser would too, in the text field that was typed in last.
    if (command && /^[zy]$/i.test(event.key) && !typing) return event.preventDefault();
    if (typing) return;
    const onCanvas = event.target === this.stage.canvas;
    const used =
      onCanvas &&
      this.subjects.editable &&
      (event.altKey ? this.moveRow(event.key) : this.onCanvasKey(event, command));
    // Not even unused: the host would delete the whole node.
    if (used || event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  /**
   * @param {KeyboardEvent} event
   * @param {boolean} command whether Control or Command is pressed
   * @returns {boolean} whether the key was one of ours
   */
  onCanvasKey({ key, shiftKey }, command) {
    const { subjects, clipboard } = this;
    const letter = command && !shiftKey ? key.toLowerCase() : "";
    if (key === "Tab") return !command && this.selectNext(shiftKey ? -1 : 1);
    if (key === "Escape") return this.escape();
    if (/^[1-9]$/.test(key) && !command) return this.selectIndex(Number(key) - 1);
    const index = subjects.selected;
    const subject = subjects.list[index];
    if (!subject) return false;
    if (ARROWS[key]) this.arrow(ARROWS[key], shiftKey, command);
    else if (key === "Delete" || key === "Backspace")
      subjects.clearBox(index) || subjects.remove(index);
    else if (key === "Enter" && !command) this.focusPhrase(index);
    else if (letter === "c") clipboard.copySubject(index);
    else if (letter === "d") duplicate(subjects, index);
    else return false;
    return true;
  }

  /**
   * Move the selected subject's row up or down.
   * @param {string} key pressed with Alt
   */
  moveRow(key) {
    const { subjects } = this;
    const step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!step || subjects.selected < 0 || subjects.selected + step < 0) return false;
    moveRow(subjects, subjects.selected, subjects.selected + step);
    return true;
  }

  /** @param {number} index */
  selectIndex(index) {
    if (index < 0 || index >= this.subjects.list.length) return false;
    this.subjects.select(index);
    return true;
  }

  /** @param {1 | -1} step */
  selectNext(step) {
    return this.selectIndex(this.subjects.selected + step);
  }

  escape() {
    if (this.gestures.drag) this.gestures.cancel();
    else if (this.subjects.selected >= 0) this.subjects.select(-1);
    else return false;
    return true;
  }

  /**
   * Move the selected box, or with `resize` its right and lower edges; by a cell of the grid. The
   * undo step is made when the key is released, so that one that is held doesn't fill the history.
   * @param {[number, number]} direction
   * @param {boolean} byCell
   * @param {boolean} resize
   */
  arrow([right, down], byCell, resize) {
    const { subjects } = this;
    const subject = subjects.list[subjects.selected];
    if (!subject.box || !subjects.boxesEditable) return;
    const size = this.stage.size();
    const [x, y] = byCell
      ? gridOf(size).map((cells) => 1 / cells)
      : size.map((edge) => NUDGE / edge);
    const by = { x: right * x, y: down * y };
    const box = resize ? growBox(subject.box, by) : moveBox(subject.box, by, null);
    setShape(subject, fitShape(subject, box));
    subjects.store(false);
  }
}
