// The list below the canvas, a row a subject.

import { element } from "./elements.mjs";
import { Row } from "./row.mjs";

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
    this.root = element("ul", { className: "msd-rows", "aria-label": host.text("rows") });
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
    for (const [i, row] of rows.entries()) row.refresh(list[i], boxes[i], host.reference(i));
    return rows.length !== before;
  }

  /** @param {number} index */
  focusPhrase(index) {
    this.rows[index]?.focusPhrase();
  }
}
