// The layout editor: a canvas to draw one box a subject on, and a row a subject below it. It knows
// nothing of ComfyUI; what it needs of its node comes as `host`. Text from a workflow is shown by
// textContent, value and fillText only, never as HTML.

import { COLOURS, paint } from "./painting.mjs";
import {
  HEAVIEST,
  MOST_LETTERS,
  MOST_SUBJECTS,
  PRESETS,
  SMALLEST,
  applyPreset,
  clamp,
  grid,
  readBox,
  readValue,
  wasCorrected,
  writeValue,
} from "./value.mjs";

// One clear pixel: without a source the browser would draw its sign of a broken picture.
const BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const HANDLE = 8; // how near an edge is grabbed, in pixels of the canvas
const FINGER = 18; // the same by touch
const STILL = 3; // a pointer that moves less is a click, in pixels of the screen
const NUDGE = 8; // of an arrow key, in pixels of the picture: one of its latents
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CURSORS = {
  move: "move", l: "ew-resize", r: "ew-resize", t: "ns-resize", b: "ns-resize",
  tl: "nwse-resize", br: "nwse-resize", tr: "nesw-resize", bl: "nesw-resize",
};

// For every editor of the page, as undo makes editors anew
let clipboard = null; // a subject that was copied
const shown = { snapping: false, showCells: false };

/** An element with properties, attributes (names with "-", and role) and children. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/**
 * @typedef {object} Host
 * @property {() => [number, number]} size width and height of the picture in pixels
 * @property {(index: number) => {linked: boolean, image: ?HTMLImageElement, region: boolean}}
 *   reference the picture of a subject, and whether a mask says where the subject goes
 * @property {() => ?number[][]} linkedBoxes boxes of the last run if they come by a link, else null
 * @property {() => void} onChange an edit is complete: the place for an undo step
 * @property {(index: number) => void} onRemove a subject was removed: its pictures go too, and
 *   then comes the undo step
 * @property {() => void} onRows the number of rows has changed
 * @property {(event: PointerEvent) => void} onOtherButton a button that isn't ours was pressed
 * @property {(key: string, values?: object) => string} text a message in the user's language
 */

export class LayoutEditor {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.raw = writeValue([]); // the value as it came, until the first edit
    this.subjects = [];
    this.fault = null;
    this.selected = -1;
    this.hovered = -1;
    this.drag = null;
    this.corrected = false; // the value says other than what is shown
    this.build();
  }

  get value() {
    return this.raw;
  }

  set value(raw) {
    this.raw = raw ?? writeValue([]);
    ({ subjects: this.subjects, fault: this.fault } = readValue(raw));
    this.corrected = this.editable && wasCorrected(this.subjects, this.raw);
    this.selected = Math.min(this.selected, this.subjects.length - 1);
    this.drag = null;
    this.refresh();
  }

  get editable() {
    return this.fault === null;
  }

  /** Boxes can be edited unless they come by a link. */
  get boxesEditable() {
    return this.editable && this.host.linkedBoxes() === null;
  }

  /** The boxes to show, one a subject, null where there is none. */
  get boxes() {
    const linked = this.host.linkedBoxes();
    if (linked === null) return this.subjects.map((subject) => subject.box);
    return linked.slice(0, MOST_SUBJECTS).map(readBox);
  }

  /** Write the subjects into the value; `complete` makes an undo step of it. */
  store(complete = true) {
    this.raw = writeValue(this.subjects);
    this.corrected = false;
    this.refresh();
    if (complete) this.host.onChange();
  }

  /** Make sure that there is a subject for each of the first `count` references. */
  addSubjects(count) {
    if (!this.editable || this.subjects.length >= count) return;
    while (this.subjects.length < Math.min(count, MOST_SUBJECTS)) this.addSubject();
    this.store();
  }

  /**
   * Sort the subjects as their references now are.
   * @param {number[]} kept where the first `count` subjects that still have a reference were
   * @returns {boolean} whether anything moved; subjects that lost their reference go to the end
   */
  reorder(kept, count) {
    const all = this.subjects.map((_, i) => i);
    const order = [
      ...kept,
      ...all.filter((i) => i >= count),
      ...all.filter((i) => i < count && !kept.includes(i)),
    ];
    if (!this.editable || order.length !== all.length || order.every((old, i) => old === i))
      return false;
    this.subjects = order.map((i) => this.subjects[i]);
    this.selected = -1;
    this.store();
    return true;
  }

  /** @returns {number} its index */
  addSubject() {
    return this.subjects.push({ phrase: "", box: null, weight: 1 }) - 1;
  }

  remove(index) {
    this.subjects.splice(index, 1);
    this.selected = Math.min(this.selected, this.subjects.length - 1);
    this.store(false);
    this.host.onRemove(index);
  }

  select(index) {
    if (this.selected === index) return;
    this.selected = index;
    this.refresh();
  }

  /** Follow the size of the canvas, while the node is in a graph. */
  watch() {
    this.observer.observe(this.stage);
  }

  unwatch() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frameRequest);
  }

  // ---- Elements

  build() {
    const { text } = this.host;
    this.presets = element("select", { "aria-label": text("presets"), title: text("order") });
    this.presets.append(element("option", { value: "", textContent: text("presets") }));
    for (const name of Object.keys(PRESETS))
      this.presets.append(element("option", { value: name, textContent: text(name) }));
    this.presets.addEventListener("change", () => {
      if (this.presets.value && this.boxesEditable) {
        this.subjects = applyPreset(this.subjects, this.presets.value);
        this.store();
      }
      this.presets.value = "";
    });
    this.presets.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return; // closed, it would take the first that comes
      event.preventDefault();
      this.presets.showPicker();
    });
    this.toggles = {};
    const toggle = (name) => {
      const button = element("button", {
        type: "button", className: "msd-button", textContent: text(name), title: text(`${name}Hint`),
      });
      button.addEventListener("click", () => {
        shown[name] = !shown[name];
        this.refresh();
      });
      this.toggles[name] = button;
      return button;
    };
    this.canvas = element("canvas", {
      tabIndex: 0, role: "application", "aria-label": text("canvas"),
      "aria-roledescription": text("canvasRole"),
    });
    this.stage = element("div", { className: "msd-stage" }, this.canvas);
    this.note = element("p", { className: "msd-note", role: "status" });
    this.spoken = element("p", { className: "msd-spoken", role: "status" });
    this.rows = element("ul", { className: "msd-rows", "aria-label": text("rows") });
    this.root = element(
      "div",
      { className: "msd-layout" },
      element("div", { className: "msd-bar" }, this.presets, toggle("snapping"), toggle("showCells")),
      this.stage,
      this.note,
      this.spoken,
      this.rows,
    );
    const on = (name, handler) => this.canvas.addEventListener(name, handler.bind(this));
    on("pointerdown", this.onPointerDown);
    on("pointermove", this.onPointerMove);
    on("pointerup", this.onPointerUp);
    on("pointercancel", this.onPointerCancel);
    on("pointerleave", () => this.hover(-1));
    on("dblclick", (event) => this.focusPhrase(this.hit(this.point(event))?.index ?? -1));
    on("keyup", (event) => {
      if (ARROWS[event.key]) this.host.onChange();
    });
    on("focus", () => this.draw());
    on("blur", () => {
      this.host.onChange(); // of an arrow key that is still held
      this.draw();
    });
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.observer = new ResizeObserver(() => this.draw());
  }

  makeRow(index) {
    const { text } = this.host;
    const number = { n: index + 1 };
    const chip = element("button", {
      type: "button", className: "msd-chip", textContent: String(index + 1),
      "aria-label": text("selectSubject", number),
    });
    chip.style.background = COLOURS[index % COLOURS.length];
    chip.addEventListener("click", () => {
      this.select(index);
      this.canvas.focus({ preventScroll: true });
    });
    const thumb = element("img", { className: "msd-thumb", draggable: false });
    const phrase = element("input", {
      type: "text", className: "msd-phrase", maxLength: MOST_LETTERS, required: true,
      placeholder: text("phrase"), title: text("phraseHint"), "aria-label": text("phraseOf", number),
    });
    phrase.addEventListener("input", () => {
      this.subjects[index].phrase = phrase.value;
      this.store(false);
    });
    phrase.addEventListener("change", () => this.host.onChange());
    const weight = element("input", {
      type: "number", className: "msd-weight", min: "0", max: String(HEAVIEST), step: "0.05",
      title: text("weightHint"), "aria-label": text("weightOf", number),
    });
    weight.addEventListener("change", () => {
      const given = weight.valueAsNumber;
      this.subjects[index].weight = Number.isFinite(given) ? clamp(given, 0, HEAVIEST) : 1;
      weight.value = String(this.subjects[index].weight);
      this.store();
    });
    for (const input of [phrase, weight]) {
      input.addEventListener("focus", () => this.select(index));
      input.addEventListener("pointerdown", (event) => event.stopPropagation());
    }
    const place = element("span", { className: "msd-place" });
    const remove = element("button", {
      type: "button", className: "msd-button", textContent: "×", title: text("remove"),
      "aria-label": text("removeSubject", number),
    });
    remove.addEventListener("click", () => {
      this.remove(index);
      this.canvas.focus({ preventScroll: true });
    });
    const row = element("li", { className: "msd-row" }, chip, thumb, phrase, weight, place, remove);
    row.parts = { thumb, phrase, weight, place };
    return row;
  }

  /** Show what the subjects, the references and the links are now. */
  refresh() {
    if (this.drag) return this.draw(); // a new row would move the canvas under the pointer
    const [width, height] = this.host.size();
    this.stage.style.setProperty("--msd-aspect", `${width} / ${height}`);
    this.presets.disabled = !this.boxesEditable;
    for (const [name, button] of Object.entries(this.toggles))
      button.setAttribute("aria-pressed", String(shown[name]));
    const rows = this.rows.children;
    const before = rows.length;
    while (rows.length > this.subjects.length) this.rows.lastChild.remove();
    while (rows.length < this.subjects.length) this.rows.append(this.makeRow(rows.length));
    const boxes = this.boxes;
    this.subjects.forEach((subject, i) => this.refreshRow(rows[i], i, subject, boxes[i]));
    const [words, complete] = this.message(boxes);
    // Only when it changes: screen readers say it again, and a button in it would lose the focus.
    const said = words.map((word) => word.textContent ?? word).join("");
    if (said !== this.note.textContent) this.note.replaceChildren(...words);
    this.note.dataset.complete = String(complete);
    const spoken = this.describe(this.selected, boxes[this.selected]);
    if (spoken !== this.spoken.textContent) this.spoken.textContent = spoken;
    if (rows.length !== before) this.host.onRows();
    this.draw();
  }

  refreshRow(row, index, subject, box) {
    const { thumb, phrase, weight, place } = row.parts;
    const { linked, image, region } = this.host.reference(index);
    row.setAttribute("aria-current", String(index === this.selected));
    if (phrase.value !== subject.phrase) phrase.value = subject.phrase;
    // A weight that is being typed stays; one that comes from elsewhere, as by undo, is shown.
    if (weight.dataset.shown !== String(subject.weight))
      weight.dataset.shown = weight.value = String(subject.weight);
    thumb.src = image?.src || BLANK;
    thumb.dataset.missing = String(!image?.src);
    thumb.alt = this.host.text(linked ? "referenceOf" : "noReferenceOf", { n: index + 1 });
    thumb.title = thumb.alt;
    const kind = region ? "mask" : box ? "box" : "noBox";
    place.textContent = this.host.text(kind);
    place.title = this.host.text(`${kind}Hint`);
    place.dataset.missing = String(kind === "noBox");
  }

  /** The selected subject in words, for those who don't see the canvas. */
  describe(index, box) {
    if (!this.subjects[index] || !box) return "";
    const [width, height] = this.host.size();
    const [x, y, w, h] = [
      box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height,
    ].map(Math.round);
    const phrase = this.subjects[index].phrase;
    return this.host.text("selected", { n: index + 1, phrase, x, y, w, h });
  }

  /**
   * What stands under the canvas: why nothing can be edited, or what is missing, or the order; and
   * whether the layout is complete.
   */
  message(boxes) {
    const { text } = this.host;
    const offer = (words, name, act) => {
      const button = element("button", {
        type: "button", className: "msd-button", textContent: text(name),
      });
      button.addEventListener("click", act);
      return [[`${words} `, button], false];
    };
    if (!this.editable)
      return offer(text(this.fault), "startOver", () => {
        this.value = null;
        this.host.onChange();
      });
    if (this.corrected) return offer(text("corrected"), "correct", () => this.store());
    if (!this.boxesEditable)
      return [[text(boxes.length ? "linkedBoxes" : "linkedBoxesUnknown")], false];
    for (const [index, subject] of this.subjects.entries()) {
      const { linked, region } = this.host.reference(index);
      const missing = [
        !linked && text("reference"),
        !subject.phrase.trim() && text("phraseMissing"),
        !region && !subject.box && text("boxMissing"),
      ].filter(Boolean);
      if (missing.length)
        return [[text("missing", { n: index + 1, what: missing.join(", ") })], false];
    }
    return [[text(this.subjects.length ? "order" : "empty")], this.subjects.length > 0];
  }

  focusPhrase(index) {
    const row = this.rows.children[index];
    if (!row) return;
    this.select(index);
    const { phrase } = row.parts;
    phrase.focus();
    phrase.select();
  }

  // ---- Geometry, in pixels of the canvas before any zoom

  /** Where the picture lies on the canvas. */
  frame() {
    const [width, height] = this.host.size();
    const { clientWidth, clientHeight } = this.stage;
    const scale = Math.min((clientWidth - 2) / width, (clientHeight - 2) / height);
    const [w, h] = [Math.max(1, width * scale), Math.max(1, height * scale)];
    return { x: (clientWidth - w) / 2, y: (clientHeight - h) / 2, w, h };
  }

  /** Zoom of the graph: pixels of the screen for one of the canvas. */
  zoom() {
    return this.canvas.getBoundingClientRect().width / this.canvas.clientWidth || 1;
  }

  /** A pointer's place in shares of the picture, and how near counts as hit. */
  point(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const [zoom, frame] = [this.zoom(), this.frame()];
    const reach = event.pointerType === "touch" ? FINGER : HANDLE;
    return {
      x: ((event.clientX - left) / zoom - frame.x) / frame.w,
      y: ((event.clientY - top) / zoom - frame.y) / frame.h,
      reachX: reach / frame.w,
      reachY: reach / frame.h,
    };
  }

  /**
   * What lies at a point: the selected box's edges first, then the smallest box.
   * @param {boolean} next take the box below the selected one
   * @returns {?{index: number, edges: string}} edges: of "lrtb" those grabbed, or "move"
   */
  hit({ x, y, reachX, reachY }, next = false) {
    const found = [];
    this.boxes.forEach((box, index) => {
      if (!box) return;
      const [x0, y0, x1, y1] = box;
      if (x < x0 - reachX || x > x1 + reachX || y < y0 - reachY || y > y1 + reachY) return;
      const edge = (at, reach, low, high, names) => {
        const inner = Math.min(reach, (high - low) / 3); // a small box can still be moved
        return at > high - inner ? names[1] : at < low + inner ? names[0] : "";
      };
      const edges = edge(y, reachY, y0, y1, "tb") + edge(x, reachX, x0, x1, "lr");
      found.push({ index, edges: edges || "move", area: (x1 - x0) * (y1 - y0) });
    });
    const own = found.find(({ index }) => index === this.selected);
    if (next && found.length)
      return { ...found[(found.indexOf(own) + 1) % found.length], edges: "move" };
    if (own && own.edges !== "move") return own;
    found.sort((a, b) => a.area - b.area);
    return own && own.area <= found[0].area ? own : (found[0] ?? null);
  }

  /** A place on an axis (0: x, 1: y), on the grid of attention cells if that is wanted. */
  snap(value, axis) {
    if (!shown.snapping) return clamp(value, 0, 1);
    const cells = grid(...this.host.size())[axis];
    return clamp(Math.round(value * cells) / cells, 0, 1);
  }

  // ---- Pointer

  onPointerDown(event) {
    if (event.button !== 0) return this.host.onOtherButton(event);
    event.stopPropagation();
    if (this.drag) return; // another finger
    this.canvas.focus({ preventScroll: true });
    const start = this.point(event);
    const hit = event.shiftKey ? null : this.hit(start, event.altKey);
    if (hit && hit.index < this.subjects.length) {
      this.select(hit.index);
      if (this.boxesEditable)
        this.drag = { start, edges: hit.edges, index: hit.index, box: [...this.boxes[hit.index]] };
    } else {
      this.select(-1);
      if (this.boxesEditable) this.drag = { start, edges: "new", index: -1, box: null };
    }
    if (!this.drag) return;
    Object.assign(this.drag, { pointer: event.pointerId, from: [event.clientX, event.clientY] });
    this.canvas.setPointerCapture(event.pointerId);
  }

  onPointerMove(event) {
    const at = this.point(event);
    if (!this.drag) {
      const hit = this.hit(at);
      this.hover(hit?.index ?? -1);
      this.canvas.style.cursor = !this.boxesEditable
        ? "default"
        : hit
          ? CURSORS[hit.edges]
          : "crosshair";
      return;
    }
    event.stopPropagation();
    const { pointer, from } = this.drag;
    if (event.pointerId !== pointer) return;
    const way = Math.hypot(event.clientX - from[0], event.clientY - from[1]);
    if (!this.drag.begun && way < STILL) return;
    this.drag.begun = true;
    if (this.drag.edges === "new") this.dragNew(at);
    else if (this.drag.edges === "move") this.dragBox(at);
    else this.dragEdges(at);
    this.draw();
  }

  dragNew({ x, y }) {
    const { start } = this.drag;
    if (this.drag.index < 0) {
      // The first subject that waits for a box gets it; else it is a new subject's.
      const waiting = this.subjects.findIndex(
        (subject, i) => !subject.box && !this.host.reference(i).region,
      );
      if (waiting < 0 && this.subjects.length === MOST_SUBJECTS) return;
      this.drag.added = waiting < 0;
      this.drag.index = waiting < 0 ? this.addSubject() : waiting;
      this.selected = this.drag.index;
    }
    const corners = [start.x, start.y, x, y].map((value, i) => this.snap(value, i % 2));
    this.subjects[this.drag.index].box = readBox(corners);
  }

  dragBox({ x, y }) {
    const { start, box, index } = this.drag;
    const move = (axis, by) => {
      const size = box[axis + 2] - box[axis];
      const low = clamp(this.snap(box[axis] + by, axis), 0, 1 - size);
      return [low, low + size];
    };
    const [[x0, x1], [y0, y1]] = [move(0, x - start.x), move(1, y - start.y)];
    this.subjects[index].box = [x0, y0, x1, y1];
  }

  dragEdges({ x, y }) {
    const { start, box, edges, index } = this.drag;
    let [x0, y0, x1, y1] = box;
    const [dx, dy] = [x - start.x, y - start.y];
    if (edges.includes("l")) x0 = Math.min(this.snap(x0 + dx, 0), x1 - SMALLEST);
    if (edges.includes("r")) x1 = Math.max(this.snap(x1 + dx, 0), x0 + SMALLEST);
    if (edges.includes("t")) y0 = Math.min(this.snap(y0 + dy, 1), y1 - SMALLEST);
    if (edges.includes("b")) y1 = Math.max(this.snap(y1 + dy, 1), y0 + SMALLEST);
    this.subjects[index].box = [x0, y0, x1, y1];
  }

  onPointerUp(event) {
    const { drag } = this;
    if (!drag || event.pointerId !== drag.pointer) return;
    event.stopPropagation();
    this.drag = null;
    const box = this.subjects[drag.index]?.box;
    if (box && !(drag.box && box.every((value, i) => value === drag.box[i]))) this.store();
    else this.refresh();
  }

  /** The gesture was taken away (by scrolling, or a dialog): as if it hadn't begun. */
  onPointerCancel() {
    const { drag } = this;
    if (!drag) return;
    this.drag = null;
    if (drag.added) this.subjects.splice(drag.index, 1);
    else if (drag.index >= 0) this.subjects[drag.index].box = drag.box;
    this.select(-1);
    this.refresh();
  }

  hover(index) {
    if (this.hovered === index) return;
    this.hovered = index;
    this.draw();
  }

  // ---- Keyboard

  onKey(event) {
    const typing = event.target.tagName === "INPUT";
    const command = event.ctrlKey || event.metaKey;
    // The host undoes by itself. The browser would too, in the text field that was typed in last.
    if (command && /^[zy]$/i.test(event.key) && !typing) return event.preventDefault();
    if (typing) return;
    const onCanvas = event.target === this.canvas;
    const used =
      onCanvas && this.editable && !event.altKey && this.canvasKey(event, command);
    // Not even unused: the host would delete the whole node.
    if (used || event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  /** Whether the key was one of ours. */
  canvasKey(event, command) {
    const { key, shiftKey } = event;
    const letter = command && !shiftKey ? key.toLowerCase() : "";
    const index = this.selected;
    const subject = this.subjects[index];
    if (key === "Tab") {
      const next = index + (shiftKey ? -1 : 1);
      if (command || next < 0 || next >= this.subjects.length) return false;
      this.select(next);
    } else if (key === "Escape") {
      if (this.drag) this.onPointerCancel();
      else if (index >= 0) this.select(-1);
      else return false;
    } else if (/^[1-9]$/.test(key) && !command) {
      if (Number(key) > this.subjects.length) return false;
      this.select(Number(key) - 1);
    } else if (letter === "v") {
      return this.paste(clipboard);
    } else if (!subject) {
      return false;
    } else if (ARROWS[key]) {
      this.arrow(ARROWS[key], shiftKey, command);
    } else if (key === "Delete" || key === "Backspace") {
      this.remove(index);
    } else if (key === "Enter" && !command) {
      this.focusPhrase(index);
    } else if (letter === "c") {
      clipboard = structuredClone(subject);
    } else if (letter === "d") {
      return this.paste(subject);
    } else {
      return false;
    }
    return true;
  }

  /**
   * Move the selected box, or with `resize` its right and lower edges; by a cell of the grid. The
   * undo step comes when the key is released, so that one that is held doesn't fill the history.
   */
  arrow([right, down], byCell, resize) {
    const subject = this.subjects[this.selected];
    if (!subject.box || !this.boxesEditable) return;
    const size = this.host.size();
    const cells = grid(...size);
    const by = [right, down].map((way, axis) => way * (byCell ? 1 / cells[axis] : NUDGE / size[axis]));
    const box = [...subject.box];
    for (const axis of [0, 1]) {
      const edge = box[axis + 2] - box[axis];
      if (resize) {
        box[axis + 2] = clamp(box[axis + 2] + by[axis], box[axis] + SMALLEST, 1);
      } else {
        box[axis] = clamp(box[axis] + by[axis], 0, 1 - edge);
        box[axis + 2] = box[axis] + edge;
      }
    }
    subject.box = box;
    this.store(false);
  }

  /** Add a copy of a subject, its box a little further right and down where there is room. */
  paste(subject) {
    if (!subject) return false;
    if (this.subjects.length === MOST_SUBJECTS) return true;
    const copy = structuredClone(subject);
    if (copy.box) {
      const move = (low, high) => Math.min(1 / 32, 1 - copy.box[high]) + copy.box[low];
      copy.box = [move(0, 2), move(1, 3), move(2, 2), move(3, 3)];
    }
    this.selected = this.subjects.push(copy) - 1;
    this.store();
    return true;
  }

  // ---- Painting

  draw() {
    cancelAnimationFrame(this.frameRequest);
    this.frameRequest = requestAnimationFrame(() => paint(this, shown));
  }
}
