// What the node's last run showed: the references, and boxes and size that another node gave.

import { app } from "../../../../scripts/app.js";

/** @typedef {{references: string[], boxes: unknown[], size: number[]}} Run references: file names, "" for a subject that was off */

const THUMBNAIL = /^msd_reference_[\w.-]+\.png$/; // as the node names its copies of the references

/**
 * @param {any} output of the node
 * @returns {Run | null} null if it can't be read
 */
export function readRun(output) {
  try {
    const { boxes, linked, size } = JSON.parse(output.msd_layout[0]);
    return {
      references: output.msd_references.map((/** @type {string} */ name) =>
        THUMBNAIL.test(name) ? name : "",
      ),
      boxes: linked && Array.isArray(boxes) ? boxes : [],
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
  }

  /** The host keeps a node's outputs, also when undo creates the node again. */
  get() {
    const { graph, id } = this.node;
    const shown = graph && app.nodeOutputs[graph.isRootGraph ? id : `${graph.id}:${id}`];
    const output = shown && JSON.stringify([shown.msd_layout, shown.msd_references]);
    if (output !== this.output) {
      [this.output, this.run] = [output, output ? readRun(shown) : null];
      this.onNew();
    }
    return this.run;
  }

  /** The run's references aren't the layout's any more. */
  forget() {
    this.run = null;
  }
}
