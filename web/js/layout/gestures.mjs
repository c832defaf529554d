// Drawing, moving and resizing boxes with a mouse or a finger.

import { drawBox, hit, moveBox, resizeBox } from "./geometry.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./geometry.mjs").Grip} Grip */
/** @typedef {import("./geometry.mjs").Point} Point */

/**
 * @typedef {object} Drag
 * @property {number} pointer id of the mouse or finger
 * @property {[number, number]} from where on the screen it began
 * @property {Point} start the same in the picture
 * @property {Grip | "new"} grip
 * @property {number} index of the subject; -1 until a new box has one
 * @property {Box | null} box as it was before
 * @property {boolean} begun false while it may still be a click
 * @property {boolean} added whether the subject is new
 * @property {{index: number, by: import("./subjects.mjs").SelectedBy}} before what was selected
 */

const MIN_DRAG = 3; // pixels of the screen; a shorter one is a click
const CURSORS = {
  move: "move",
  l: "ew-resize",
  r: "ew-resize",
  t: "ns-resize",
  b: "ns-resize",
  tl: "nwse-resize",
  br: "nwse-resize",
  tr: "nesw-resize",
  bl: "nesw-resize",
};

export class Gestures {
  /**
   * @param {import("./stage.mjs").Stage} stage
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {Pick<import("./host.mjs").Host, "reference" | "onOtherButton">} host
   * @param {() => import("./grid.mjs").Grid | null} snapGrid
   */
  constructor(stage, subjects, host, snapGrid) {
    this.stage = stage;
    this.subjects = subjects;
    this.host = host;
    this.snapGrid = snapGrid;
    /** @type {Drag | null} */
    this.drag = null;
    this.hovered = -1;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", (event) => this.onUp(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => this.hover(-1));
  }

  /**
   * The box that an event is on.
   * @param {MouseEvent} event
   */
  hit(event, below = false) {
    const { boxes, selected } = this.subjects;
    return hit(boxes, this.stage.pointer(event), selected, below);
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    if (event.button !== 0) return this.host.onOtherButton(event);
    event.stopPropagation();
    if (this.drag) return; // another finger
    this.stage.focus();
    const start = this.stage.pointer(event);
    let found = event.shiftKey ? null : this.hit(event, event.altKey);
    if (found && found.index >= this.subjects.list.length) found = null; // a linked box without subject
    const before = { index: this.subjects.selected, by: this.subjects.selectedBy };
    this.subjects.select(found?.index ?? -1, "canvas");
    if (!this.subjects.boxesEditable) return;
    this.drag = {
      pointer: event.pointerId,
      from: [event.clientX, event.clientY],
      start,
      grip: found?.grip ?? "new",
      index: found?.index ?? -1,
      box: found && this.subjects.list[found.index].box,
      begun: false,
      added: false,
      before,
    };
    this.stage.canvas.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  onMove(event) {
    const { drag } = this;
    if (!drag) return this.onHover(event);
    event.stopPropagation();
    if (event.pointerId !== drag.pointer) return;
    const distance = Math.hypot(event.clientX - drag.from[0], event.clientY - drag.from[1]);
    if (!drag.begun && distance < MIN_DRAG) return;
    drag.begun = true;
    this.dragTo(drag, this.stage.pointer(event));
    this.stage.draw();
  }

  /**
   * @param {Drag} drag
   * @param {Point} to
   */
  dragTo(drag, to) {
    const { list } = this.subjects;
    const { start, grip, box } = drag;
    const by = { x: to.x - start.x, y: to.y - start.y };
    if (grip === "new") {
      if (drag.index < 0 && !this.giveSubject(drag)) return;
      list[drag.index].box = drawBox(start, to, this.snapGrid());
    } else if (box) {
      const moved =
        grip === "move"
          ? moveBox(box, by, this.snapGrid())
          : resizeBox(box, grip, by, this.snapGrid());
      list[drag.index].box = moved;
    }
  }

  /**
   * Give a new box to the subject that was selected by its row or a key; else to the first that needs
   * one, to the one that was being typed in, or to a new subject.
   * @param {Drag} drag
   * @returns {boolean} false if there are too many subjects
   */
  giveSubject(drag) {
    const { subjects } = this;
    const { index, by } = drag.before;
    const waiting = subjects.list.findIndex(
      ({ box, off }, i) => !box && !off && !this.host.reference(i).region,
    );
    const own = by === "row" || (by === "typing" && waiting < 0) ? index : waiting;
    if (own < 0 && subjects.full) return false;
    drag.added = own < 0;
    drag.index = own < 0 ? subjects.add() : own;
    drag.box = subjects.list[drag.index].box;
    subjects.selected = drag.index;
    return true;
  }

  /** @param {PointerEvent} event */
  onUp(event) {
    const { drag, subjects } = this;
    if (!drag || event.pointerId !== drag.pointer) return;
    event.stopPropagation();
    this.drag = null;
    const box = subjects.list[drag.index]?.box;
    const changed = box && !box.every((edge, i) => edge === drag.box?.[i]);
    if (changed) subjects.store();
    else subjects.refresh();
  }

  /** Undo a gesture that was interrupted, as by scrolling or a dialog. */
  cancel() {
    const { drag, subjects } = this;
    if (!drag) return;
    this.drag = null;
    if (drag.added) subjects.list.splice(drag.index, 1);
    else if (drag.index >= 0) subjects.list[drag.index].box = drag.box;
    subjects.select(-1);
    subjects.refresh();
  }

  /** Forget a gesture whose subjects were replaced. */
  drop() {
    this.drag = null;
  }

  /** @param {PointerEvent} event */
  onHover(event) {
    const found = this.hit(event);
    this.hover(found?.index ?? -1);
    const cursor = found ? CURSORS[found.grip] : "crosshair";
    this.stage.canvas.style.cursor = this.subjects.boxesEditable ? cursor : "default";
  }

  /** @param {number} index */
  hover(index) {
    if (this.hovered === index) return;
    this.hovered = index;
    this.stage.draw();
  }
}
