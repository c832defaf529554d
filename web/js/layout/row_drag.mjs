// Dragging a row by its number to another place in the list.

import { moveRow, placeOf } from "./arranging.mjs";
import { clamp } from "./value.mjs";

const MIN_DRAG = 4; // pixels of the screen; a shorter one is a click
const SCROLL = 8; // pixels a move beyond the rows in sight scrolls by

export class RowDrag {
  /**
   * @param {HTMLElement} list of the rows
   * @param {import("./subjects.mjs").Subjects} subjects
   */
  constructor(list, subjects) {
    this.list = list;
    this.subjects = subjects;
    /** @type {{from: number, to: number, y: number, begun: boolean} | null} */
    this.drag = null;
    this.ended = false; // just now: the click that follows is the drag's
    list.addEventListener("pointerdown", (event) => this.onDown(event));
    list.addEventListener("pointermove", (event) => this.onMove(event));
    list.addEventListener("pointerup", () => this.onUp());
    list.addEventListener("pointercancel", () => this.drop());
    list.addEventListener("click", (event) => this.ended && event.stopPropagation(), true);
  }

  get rows() {
    return /** @type {HTMLElement[]} */ ([...this.list.children]);
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    const { target } = event;
    const chip = target instanceof Element ? target.closest(".msd-chip") : null;
    if (!chip || event.button !== 0) return;
    event.stopPropagation(); // it drags the node
    const from = this.rows.findIndex((row) => row.contains(chip));
    this.drag = { from, to: from, y: event.clientY, begun: false };
    chip.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  onMove({ clientY }) {
    const { drag, list, rows } = this;
    if (!drag || !this.subjects.editable) return;
    drag.begun ||= Math.abs(clientY - drag.y) >= MIN_DRAG;
    if (!drag.begun) return;
    const { top, bottom } = list.getBoundingClientRect();
    if (clientY < top) list.scrollTop -= SCROLL;
    if (clientY > bottom) list.scrollTop += SCROLL;
    const isAbove = (/** @type {HTMLElement} */ row) => {
      const rect = row.getBoundingClientRect();
      return rect.top + rect.height / 2 < clientY;
    };
    const above = rows.filter((row, i) => i !== drag.from && isAbove(row)).length;
    drag.to = placeOf(this.subjects, drag.from, clamp(above, 0, rows.length - 1));
    this.mark();
  }

  /** Show where the row would go. */
  mark() {
    const { drag, rows } = this;
    for (const [i, row] of rows.entries()) {
      const side = drag && drag.from < drag.to ? "below" : "above";
      const isTarget = drag?.begun && i === drag.to && i !== drag.from;
      row.dataset.drop = isTarget ? side : "";
      row.dataset.dragged = String(Boolean(drag?.begun && i === drag.from));
    }
  }

  onUp() {
    const { drag } = this;
    this.drop();
    if (!drag?.begun) return;
    this.ended = true;
    setTimeout(() => {
      this.ended = false; // the next click is a key's
    });
    moveRow(this.subjects, drag.from, drag.to);
  }

  drop() {
    this.drag = null;
    this.mark();
  }
}
