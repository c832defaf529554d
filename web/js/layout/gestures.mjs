// Drawing, moving and resizing boxes, and shapes drawn freehand, with a mouse or a finger.

import { drawBox, hit, keepAspect, moveBox, resizeBox } from "./geometry.mjs";
import { page } from "./pixel_fields.mjs";
import { fitShape, setShape, shapeOf, shapeOfLine } from "./polygon.mjs";
import { boxAround, clamp, MAX_POINTS } from "./value.mjs";

/** @typedef {import("./value.mjs").Shape} Shape */
/** @typedef {import("./value.mjs").Polygon} Polygon */
/** @typedef {import("./geometry.mjs").Grip} Grip */
/** @typedef {import("./geometry.mjs").Point} Point */

/**
 * @typedef {object} Drag
 * @property {number} pointer id of the mouse or finger
 * @property {[number, number]} from where on the screen it began
 * @property {Point} start the same in the picture
 * @property {Grip | "new"} grip
 * @property {number} index of the subject; -1 until a new box has one
 * @property {Shape} shape as it was before
 * @property {Polygon | null} line that is drawn freehand
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

/**
 * Lengthen a line, inside the picture.
 * @param {Polygon} line
 * @param {Point[]} points
 */
function drawLine(line, points) {
  for (const { x, y } of points) line.push([clamp(x, 0, 1), clamp(y, 0, 1)]);
}

/**
 * @param {Shape} a
 * @param {Shape} b
 */
const sameShape = (a, b) => JSON.stringify(shapeOf(a)) === JSON.stringify(shapeOf(b));

export class Gestures {
  /**
   * @param {import("./stage.mjs").Stage} stage
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {Pick<import("./host.mjs").Host, "reference" | "onOtherButton">} host
   * @param {object} tool
   * @param {() => import("./grid.mjs").Grid | null} tool.snapGrid
   * @param {() => boolean} tool.isLasso whether a drag draws freehand
   */
  constructor(stage, subjects, host, { snapGrid, isLasso }) {
    this.stage = stage;
    this.subjects = subjects;
    this.host = host;
    this.snapGrid = snapGrid;
    this.isLasso = isLasso;
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
    const { boxes, fronts, selected } = this.subjects;
    return hit(boxes, this.stage.pointer(event), selected, fronts, below);
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    if (event.button !== 0) return this.host.onOtherButton(event);
    event.stopPropagation();
    if (this.drag) return; // another finger
    this.stage.focus();
    const start = this.stage.pointer(event);
    const lasso = this.isLasso();
    let found = event.shiftKey || lasso ? null : this.hit(event, event.altKey);
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
      shape: found ? shapeOf(this.subjects.list[found.index]) : { box: null },
      line: lasso ? [] : null,
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
    const { start, grip, shape, line } = drag;
    const by = { x: to.x - start.x, y: to.y - start.y };
    if (grip === "new") {
      if (drag.index < 0 && !this.giveSubject(drag)) return;
      if (line) drawLine(line, line.length ? [to] : [start, to]);
      const box = line ? boxAround(line) : drawBox(start, to, this.snapGrid());
      setShape(list[drag.index], line ? { box, polygon: line } : { box });
    } else if (shape.box) {
      setShape(list[drag.index], fitShape(shape, this.moved(shape.box, grip, by)));
    }
  }

  /**
   * A box after its grip was dragged.
   * @param {import("./value.mjs").Box} box
   * @param {Grip} grip
   * @param {Point} by
   */
  moved(box, grip, by) {
    if (grip === "move") return moveBox(box, by, this.snapGrid());
    const resized = resizeBox(box, grip, by, this.snapGrid());
    return page.keepsAspect && grip.length === 2 ? keepAspect(box, resized, grip) : resized;
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
    const waits = (/** @type {number} */ i) => {
      const { box, off } = subjects.list[i];
      return !box && !off && !this.host.reference(i).region;
    };
    const [waiting = -1, ...others] = [...subjects.list.keys()].filter(waits);
    const own = by === "row" || (by === "typing" && waiting < 0) ? index : waiting;
    // Drawn again, it is that of the same row, unless others have none yet.
    if (by === "row" && !others.length && (waiting < 0 || waiting === own))
      subjects.selectedBy = "row";
    if (own < 0 && subjects.full) {
      subjects.onFull();
      return false;
    }
    drag.added = own < 0;
    drag.index = own < 0 ? subjects.add() : own;
    drag.shape = shapeOf(subjects.list[drag.index]);
    subjects.selected = drag.index;
    return true;
  }

  /** @param {PointerEvent} event */
  onUp(event) {
    const { drag, subjects } = this;
    if (!drag || event.pointerId !== drag.pointer) return;
    event.stopPropagation();
    const subject = subjects.list[drag.index];
    if (subject && drag.line) {
      const shape = shapeOfLine(drag.line, 1 / this.stage.frame().w, MAX_POINTS);
      if (!shape) return this.cancel();
      setShape(subject, shape);
    }
    this.drag = null;
    const changed = subject?.box && !sameShape(subject, drag.shape);
    if (changed) subjects.store();
    else subjects.refresh();
  }

  /** Undo a gesture that was interrupted, as by scrolling or a dialog. */
  cancel() {
    const { drag, subjects } = this;
    if (!drag) return;
    this.drag = null;
    if (drag.added) subjects.list.splice(drag.index, 1);
    else if (drag.index >= 0) setShape(subjects.list[drag.index], drag.shape);
    subjects.select(-1);
    subjects.refresh();
  }

  /** Forget a gesture whose subjects were replaced. */
  drop() {
    this.drag = null;
  }

  /** @param {PointerEvent} event */
  onHover(event) {
    const found = this.isLasso() ? null : this.hit(event);
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
