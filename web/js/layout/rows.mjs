// The list below the canvas, a row a subject.

import { isLeftOut } from "./arranging.mjs";
import { element } from "./elements.mjs";
import { Row } from "./row.mjs";
import { RowDrag } from "./row_drag.mjs";

export class Rows {
  /**
   * @param {import("./host.mjs").Host} host
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {import("./row.mjs").Actions} actions
   */
  constructor(host, subjects, actions) {
    this.host = host;
    this.subjects = subjects;
    this.actions = actions;
    /** @type {Row[]} */
    this.rows = [];
    this.shown = -1; // index of the row that was scrolled to
    this.root = element("ul", { className: "msd-rows", "aria-label": host.text("rows") });
    new RowDrag(this.root, subjects);
  }

  /** @returns {boolean} whether there are more or fewer rows than before */
  refresh() {
    const { host, rows, subjects } = this;
    const { list, boxes } = subjects;
    const before = rows.length;
    for (const row of rows.splice(list.length)) row.root.remove();
    while (rows.length < list.length) {
      const row = new Row(rows.length, host, subjects, this.actions);
      this.root.append(row.root);
      rows.push(row);
    }
    const prompt = host.prompt();
    for (const [i, row] of rows.entries()) {
      row.refresh(list[i], boxes[i], host.reference(i), isLeftOut(subjects, i));
      row.compare(list[i], prompt);
    }
    this.showSelected();
    return rows.length !== before;
  }

  /** Scroll to the selected row; scrollIntoView would move the page too. */
  showSelected() {
    const { selected } = this.subjects;
    if (selected === this.shown) return;
    this.shown = selected;
    const row = this.rows[selected]?.root;
    if (!row) return;
    const { root } = this;
    const top = row.offsetTop - root.offsetTop;
    const least = top + row.offsetHeight - root.clientHeight;
    root.scrollTop = Math.min(top, Math.max(least, root.scrollTop));
  }

  /** @param {number} index */
  focusPhrase(index) {
    this.rows[index]?.focusPhrase();
  }
}
