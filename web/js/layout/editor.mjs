// The layout editor: a canvas to draw one box a subject on, and a row a subject below it. It knows
// nothing of ComfyUI; what it needs of its node comes as `host`. Text from a workflow is shown by
// textContent, value and fillText only, never as HTML.

import { Clipboard } from "./clipboard.mjs";
import { element } from "./elements.mjs";
import { Gestures } from "./gestures.mjs";
import { gridOf } from "./grid.mjs";
import { Keys } from "./keys.mjs";
import { Menu } from "./menu.mjs";
import { Note } from "./note.mjs";
import { paint } from "./painting.mjs";
import { Pictures } from "./pictures.mjs";
import { Rows } from "./rows.mjs";
import { Stage } from "./stage.mjs";
import { Subjects } from "./subjects.mjs";
import { Toolbar } from "./toolbar.mjs";

// What all editors of the page share, as undo creates editors again: whether shapes are drawn freehand.
const page = { lasso: false };

export class LayoutEditor {
  /** @param {import("./host.mjs").Host} host */
  constructor(host) {
    this.host = host;
    this.subjects = new Subjects(host, () => this.refresh());
    this.stage = new Stage(host, () => this.paint());
    this.toolbar = new Toolbar(host, this.subjects, page, () => this.pictures.pick(-1));
    this.note = new Note(host, this.subjects);
    this.subjects.onFull = () => this.note.say(host.text("noSpace", { n: 1 }));
    this.rows = new Rows(host, this.subjects, {
      focusCanvas: () => this.stage.focus(),
      pick: (index) => this.pictures.pick(index),
    });
    this.gestures = new Gestures(this.stage, this.subjects, host, {
      snapGrid: () => (host.view().snapping ? gridOf(host.size()) : null),
      isLasso: () => page.lasso,
    });
    this.root = element(
      "div",
      { className: "msd-layout" },
      this.toolbar.root,
      this.stage.root,
      this.note.root,
      this.note.spoken,
      this.rows.root,
    );
    const { canvas } = this.stage;
    this.clipboard = new Clipboard(host, this.subjects, this.note);
    this.pictures = new Pictures({
      root: this.root,
      list: this.rows.root,
      host,
      stage: this.stage,
      subjects: this.subjects,
      gestures: this.gestures,
      note: this.note,
      clipboard: this.clipboard,
    });
    this.menu = new Menu({
      root: this.root,
      host,
      subjects: this.subjects,
      clipboard: this.clipboard,
      note: this.note,
      indexAt: (event) => this.pictures.indexAt(event),
    });
    for (const name of ["pointerdown", "keydown"])
      this.root.addEventListener(name, () => this.note.say(""), true);
    this.keys = new Keys({
      root: this.root,
      stage: this.stage,
      subjects: this.subjects,
      gestures: this.gestures,
      focusPhrase: (index) => this.rows.focusPhrase(index),
      onChange: host.onChange,
      clipboard: this.clipboard,
    });
    canvas.addEventListener("dblclick", (event) =>
      this.rows.focusPhrase(this.gestures.hit(event)?.index ?? -1),
    );
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.stage.draw());
  }

  get value() {
    return this.subjects.value;
  }

  set value(value) {
    this.gestures.drop();
    this.subjects.read(value);
  }

  /** Show what the subjects, the references and the links are now. */
  refresh() {
    if (this.gestures.drag) return this.stage.draw(); // a new row would move the canvas meanwhile
    this.toolbar.refresh();
    const resized = this.rows.refresh();
    this.note.refresh();
    if (resized) this.host.onRows();
    this.stage.refresh();
  }

  paint() {
    const { host, subjects } = this;
    const { hovered } = this.gestures;
    const { snapping, showCells } = host.view();
    paint(this.stage, { host, subjects, hovered, snapping, showCells });
  }
}
