// Pictures that are dropped, pasted or picked: each becomes the reference of a subject. Text that is
// pasted goes to the clipboard's reader.

import { element } from "./elements.mjs";
import { describeOthers, sortFiles } from "./picture_files.mjs";
import { droppedBox, freeBox } from "./placing.mjs";
import { clamp, MAX_SUBJECTS } from "./value.mjs";

/** @typedef {import("./geometry.mjs").Point} Point */
/** @typedef {import("./geometry.mjs").Size} Size */
/** @typedef {{name: string, size: Size}} Uploaded its name on the server */

export class Pictures {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.root of the editor
   * @param {HTMLElement} parts.list of the rows
   * @param {import("./host.mjs").Host} parts.host
   * @param {import("./stage.mjs").Stage} parts.stage
   * @param {import("./subjects.mjs").Subjects} parts.subjects
   * @param {import("./gestures.mjs").Gestures} parts.gestures
   * @param {import("./note.mjs").Note} parts.note
   * @param {import("./clipboard.mjs").Clipboard} parts.clipboard
   */
  constructor({ root, list, host, stage, subjects, gestures, note, clipboard }) {
    this.list = list;
    this.host = host;
    this.stage = stage;
    this.subjects = subjects;
    this.gestures = gestures;
    this.note = note;
    this.clipboard = clipboard;
    this.taken = Promise.resolve(); // when all files so far are taken
    root.addEventListener("dragover", (event) => this.onDragOver(event));
    root.addEventListener("dragleave", () => gestures.hover(-1));
    root.addEventListener("drop", (event) => this.onDrop(event));
    root.addEventListener("paste", (event) => this.onPaste(event));
  }

  /** @param {DragEvent} event */
  onDragOver(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    event.dataTransfer.dropEffect = "copy";
    this.gestures.hover(this.indexAt(event));
  }

  /** @param {DragEvent} event */
  onDrop(event) {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.gestures.hover(-1);
    const onCanvas = event.target === this.stage.canvas;
    const { x, y } = this.stage.pointer(event);
    const at = { x: clamp(x, 0, 1), y: clamp(y, 0, 1) };
    this.take(files, onCanvas ? at : null, this.indexAt(event));
  }

  /** @param {ClipboardEvent} event */
  onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (text && event.target instanceof HTMLInputElement) return; // it is typed
    if (files.length) this.take(files, null, this.rowAt(event));
    else if (!this.subjects.editable || !this.clipboard.take(text)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * Let the user choose files.
   * @param {number} index of the subject that gets one; -1 for new subjects
   */
  pick(index) {
    const input = element("input", { type: "file", accept: "image/*", multiple: index < 0 });
    input.addEventListener("change", () => this.take([...(input.files ?? [])], null, index));
    input.click();
  }

  /**
   * The subject that an event is on, by its box or its row; -1 for none.
   * @param {MouseEvent} event
   */
  indexAt(event) {
    if (event.target !== this.stage.canvas) return this.rowAt(event);
    const index = this.gestures.hit(event)?.index ?? -1;
    return index < this.subjects.list.length ? index : -1;
  }

  /** @param {Event} event */
  rowAt({ target }) {
    const row = target instanceof Element ? target.closest("li") : null;
    return row ? [...this.list.children].indexOf(row) : -1;
  }

  /**
   * One file on a subject replaces its picture; any others become new subjects, as far as there may be
   * more.
   * @param {File[]} files
   * @param {Point | null} at where the box of a single one goes
   * @param {number} index of the subject, -1 for none
   */
  take(files, at, index) {
    const replaced = files.length === 1 ? this.subjects.list[index] : undefined;
    const next = () => this.takeNow(files, at, replaced);
    this.taken = this.taken.then(next, next); // one drop after another
  }

  /**
   * @param {File[]} files
   * @param {Point | null} at
   * @param {import("./value.mjs").Subject | undefined} replaced whose picture is replaced
   */
  async takeNow(files, at, replaced) {
    const { host, note, subjects } = this;
    if (!subjects.editable) return;
    const { pictures, others } = await sortFiles(files);
    const words = describeOthers(host.text, others);
    const space = replaced ? 1 : this.space();
    if (pictures.length > space) words.push(host.text("noSpace", { n: pictures.length - space }));
    const uploaded = await this.upload(pictures.slice(0, space), words);
    const count = subjects.list.length + uploaded.length;
    for (const one of uploaded) {
      if (replaced) await this.replace(replaced, one.name, words);
      else await this.add(one, count, uploaded.length === 1 ? at : null);
    }
    note.say(words.join(" "));
  }

  /** How many new references there may be. */
  space() {
    const { list } = this.subjects;
    const linked = this.host.referenceCount();
    return MAX_SUBJECTS - list.filter(({ box, off }, i) => box || off || i < linked).length;
  }

  /**
   * @param {import("./picture_files.mjs").Picture[]} pictures
   * @param {string[]} words what to say of those that fail is added
   * @returns {Promise<Uploaded[]>}
   */
  async upload(pictures, words) {
    const uploaded = [];
    for (const { file, size } of pictures) {
      try {
        uploaded.push({ name: await this.host.upload(file), size });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        words.push(this.host.text("uploadFailed", { name: file.name, reason }));
      }
    }
    return uploaded;
  }

  /**
   * @param {import("./value.mjs").Subject} subject
   * @param {string} name of the file on the server
   * @param {string[]} words what to say of its mask is added
   */
  async replace(subject, name, words) {
    const { host, subjects } = this;
    const index = subjects.list.indexOf(subject);
    if (index < 0) return; // removed meanwhile
    const count = host.referenceCount();
    if (index > count) subjects.move(index, count); // to the first free socket
    const place = Math.min(index, count);
    if (await host.giveReference(place, name))
      words.push(host.text("maskDropped", { n: place + 1 }));
    subjects.refresh();
  }

  /**
   * @param {Uploaded} picture
   * @param {number} count of all subjects in the end
   * @param {Point | null} at where its box goes; null: where space is
   */
  async add({ name, size }, count, at) {
    const { host, subjects } = this;
    const index = host.referenceCount();
    const others = subjects.list.flatMap(({ box }) => (box ? [box] : []));
    const box = at
      ? droppedBox(size, host.size(), count, at)
      : freeBox(size, host.size(), count, others);
    subjects.receive(index, subjects.boxesEditable ? box : null);
    await host.giveReference(index, name);
  }
}
