// The subjects of a layout and every edit of them. `refresh` is called after each.

import { fitShape, setShape, swapShapes } from "./polygon.mjs";
import { applyPreset } from "./presets.mjs";
import {
  clamp,
  MAX_SUBJECTS,
  MAX_WEIGHT,
  readBox,
  readValue,
  wasCorrected,
  writeValue,
} from "./value.mjs";

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./value.mjs").Subject} Subject */
/** @typedef {"row" | "typing" | "canvas"} SelectedBy a row's number or a key, a field of a row, the mouse */

export class Subjects {
  /**
   * @param {import("./host.mjs").Host} host
   * @param {() => void} refresh
   */
  constructor(host, refresh) {
    this.host = host;
    this.refresh = refresh;
    /** @type {any} the value as it was read, until the first edit */
    this.value = writeValue([]);
    /** @type {Subject[]} */
    this.list = [];
    /** @type {import("./value.mjs").Fault | null} */
    this.fault = null;
    this.corrected = false; // the value differs from what is shown
    this.selected = -1;
    /** @type {SelectedBy} */
    this.selectedBy = "canvas";
    this.onFull = () => {}; // there can't be one more
  }

  /** @param {unknown} value */
  read(value) {
    this.value = value ?? writeValue([]);
    ({ subjects: this.list, fault: this.fault } = readValue(value));
    this.corrected = this.editable && wasCorrected(this.list, this.value);
    this.selected = Math.min(this.selected, this.list.length - 1);
    this.refresh();
  }

  /** Write the subjects into the value; `complete` makes an undo step of it. */
  store(complete = true) {
    this.value = writeValue(this.list);
    this.corrected = false;
    this.refresh();
    if (complete) this.host.onChange();
  }

  /** Replace a value that can't be edited. */
  startOver() {
    this.read(null);
    this.host.onChange();
  }

  get editable() {
    return this.fault === null;
  }

  get full() {
    return this.list.length >= MAX_SUBJECTS;
  }

  /** Boxes can be edited unless they are linked. */
  get boxesEditable() {
    return this.editable && this.host.linkedBoxes() === null;
  }

  /** @returns {(Box | null)[]} the boxes to show, one a subject, null where there is none */
  get boxes() {
    const linked = this.host.linkedBoxes();
    if (linked === null) return this.list.map((subject) => subject.box);
    return linked.slice(0, MAX_SUBJECTS).map(readBox);
  }

  /** @returns {number[]} of two boxes, the one with the higher number is in front */
  get fronts() {
    return this.list.map(({ front = 0 }) => front);
  }

  /**
   * @param {number} index -1 for none
   * @param {SelectedBy} by
   */
  select(index, by = "row") {
    this.selectedBy = by;
    if (this.selected === index) return;
    this.selected = index;
    this.refresh();
  }

  /** @returns {number} its index */
  add() {
    return this.list.push({ phrase: "", box: null, weight: 1 }) - 1;
  }

  /** Make sure that each of the first `count` references has a subject. @param {number} count */
  addUpTo(count) {
    if (!this.editable || this.list.length >= count) return;
    while (this.list.length < count && !this.full) this.add();
    this.store();
  }

  /**
   * Take in the subject of a new reference: the first that waits for one and for a box, or a new one.
   * @param {number} index of the reference
   * @param {Box | null} box
   */
  receive(index, box) {
    const waiting = this.list.findIndex(({ box: own, off }, i) => i >= index && !own && !off);
    this.list[waiting < 0 ? this.add() : waiting].box = box;
    [this.selected, this.selectedBy] = [index, "canvas"];
    this.move(waiting < 0 ? this.list.length - 1 : waiting, index);
  }

  /**
   * @param {number} from
   * @param {number} to index of the subject that it goes before
   */
  move(from, to) {
    this.list.splice(to, 0, ...this.list.splice(from, 1));
    this.store(false);
  }

  /** @param {number} index */
  remove(index) {
    this.list.splice(index, 1);
    this.selected = Math.min(this.selected, this.list.length - 1);
    this.store(false);
    this.host.onRemove(index);
  }

  /**
   * @param {number} index
   * @returns {boolean} whether it had a box that could be cleared
   */
  clearBox(index) {
    if (!this.boxesEditable || !this.list[index].box) return false;
    setShape(this.list[index], { box: null });
    this.store();
    return true;
  }

  /**
   * Move or scale a subject into a box.
   * @param {number} index
   * @param {Box} box
   */
  setBox(index, box) {
    setShape(this.list[index], fitShape(this.list[index], box));
    this.store();
  }

  /**
   * @param {number} index
   * @param {number} other
   */
  swapBoxes(index, other) {
    swapShapes(this.list[index], this.list[other]);
    this.store();
  }

  /** Take in a layout's subjects; what they belong to, and those beyond them, stay. @param {Subject[]} list */
  useLayout(list) {
    this.list = [...list, ...this.list.slice(list.length)];
    this.store();
  }

  clearBoxes() {
    for (const subject of this.list) setShape(subject, { box: null });
    this.store();
  }

  /**
   * The phrase as it is being typed.
   * @param {number} index
   * @param {string} phrase
   */
  setPhrase(index, phrase) {
    this.list[index].phrase = phrase;
    this.store(false);
  }

  /**
   * @param {number} index
   * @param {number} weight NaN for the default
   */
  setWeight(index, weight) {
    this.list[index].weight = Number.isFinite(weight) ? clamp(weight, 0, MAX_WEIGHT) : 1;
    this.store();
  }

  /**
   * Leave a subject out of the run, or take it in again.
   * @param {number} index
   */
  toggle(index) {
    const subject = this.list[index];
    if (subject.off) delete subject.off;
    else subject.off = true;
    this.store();
  }

  /** @param {import("./presets.mjs").PresetName} name */
  usePreset(name) {
    this.list = applyPreset(this.list, name);
    this.store();
  }
}
