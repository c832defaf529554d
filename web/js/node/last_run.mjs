// What the node's last run showed: the references, and boxes and size that another node gave.

import { app } from "../../../../scripts/app.js";

/**
 * @typedef {object} Run
 * @property {string[]} references file names, "" for a subject that was off
 * @property {string[]} regions file names of masks, "" for a subject without
 * @property {number[]} inverted numbers of subjects whose reference's mask looks so
 * @property {unknown[]} boxes
 * @property {number[]} size
 */

const COPY = /^msd_(reference|region|encoded)_[\w.-]+\.png$/; // as the nodes name their copies

/**
 * What a node showed last; the host keeps it, also when undo creates the node again.
 * @param {import("./links.mjs").HostNode} node
 * @returns {any}
 */
export function outputOf({ graph, id }) {
  return graph && app.nodeOutputs[graph.isRootGraph ? id : `${graph.id}:${id}`];
}

export const copyName = (/** @type {string} */ name) => (COPY.test(name) ? name : "");

/**
 * @param {any} output of the node
 * @returns {Run | null} null if it can't be read
 */
export function readRun(output) {
  try {
    const { boxes, linked, size, inverted } = JSON.parse(output.msd_layout[0]);
    return {
      references: output.msd_references.map(copyName),
      regions: (output.msd_regions ?? []).map(copyName), // older versions of the node give none
      boxes: linked && Array.isArray(boxes) ? boxes : [],
      inverted: Array.isArray(inverted) ? inverted : [],
      size: Array.isArray(size) ? size : [], // older versions of the node give none
    };
  } catch {
    return null;
  }
}

export class LastRun {
  /**
   * @param {import("./links.mjs").HostNode} node
   * @param {() => void} onNew there is another run
   */
  constructor(node, onNew) {
    this.node = node;
    this.onNew = onNew;
    /** @type {string | undefined} */
    this.output = undefined;
    /** @type {Run | null} */
    this.run = null;
    this.copy = ""; // of a reference, by which the run is known
  }

  get() {
    const shown = outputOf(this.node);
    const output = shown && JSON.stringify([shown.msd_layout, shown.msd_references]);
    if (output !== this.output) {
      [this.output, this.run] = [output, output ? readRun(shown) : null];
      this.copy = this.run?.references.find(Boolean) ?? "";
      this.onNew();
    }
    return this.run;
  }

  /** A reference's mask was inverted. @param {number} number of the subject */
  dropInverted(number) {
    if (this.run) this.run.inverted = this.run.inverted.filter((one) => one !== number);
  }

  /** The run's references aren't the layout's any more. */
  forget() {
    this.run = null;
  }
}
