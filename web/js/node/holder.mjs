// The element that the host puts on the screen, with an editor in it. Nodes 2.0 keeps the element on the
// screen when undo creates the node again; so the editor of the node that lives now moves into it.

import { afterFrames } from "./frames.mjs";

/** @typedef {import("../layout/editor.mjs").LayoutEditor} LayoutEditor */

const TAG = "msd-layout-holder";

const WAITS = 30; // frames
let enlarged = ""; // the owner of the editor that fills the window

/** @returns {EditorHolder[]} */
const shown = () => [...document.querySelectorAll(TAG)].map((one) => /** @type {any} */ (one));

/** @param {HTMLElement} root of an editor */
const holderOf = (root) => /** @type {EditorHolder | null} */ (root.closest(TAG));

/** @param {HTMLElement} root of an editor */
export const isEnlarged = (root) => Boolean(holderOf(root)?.popover);

/**
 * Let an editor fill the window, or only its place in the node.
 * @param {HTMLElement} root
 * @param {boolean} on
 */
export function enlarge(root, on) {
  const holder = holderOf(root);
  if (!holder || on === isEnlarged(root)) return;
  enlarged = on ? holder.owner : "";
  holder.fit();
}

export class EditorHolder extends HTMLElement {
  /** @type {LayoutEditor | null} */
  editor = null;
  /** Which node of which graph this is, also for the one that undo creates. */
  owner = "";

  /**
   * Show an editor where its node is on the screen: in the earlier node's element if undo has created
   * the node again, else in this one.
   * @param {LayoutEditor} editor
   * @param {string} owner
   */
  hold(editor, owner) {
    const earlier = this.isConnected ? null : shown().find((one) => one.owner === owner);
    (earlier ?? this).show(editor, owner);
    Object.assign(this, { editor, owner }); // for when the host shows it
  }

  /**
   * @param {LayoutEditor} editor
   * @param {string} owner
   */
  show(editor, owner) {
    Object.assign(this, { editor, owner });
    if (editor.root.parentNode !== this) this.replaceChildren(editor.root);
    if (this.isConnected) this.fit();
  }

  /** Fill the window if that is the owner's state; where the node is created again, too. */
  fit() {
    const on = this.owner === enlarged;
    if (on === Boolean(this.popover)) return;
    this.popover = on ? "manual" : null;
    if (on) this.showPopover();
    this.editor?.refresh();
  }

  connectedCallback() {
    if (this.editor) this.show(this.editor, this.owner);
    this.addEventListener("keydown", this.onKey);
  }

  disconnectedCallback() {
    this.popover = null;
    // Undo brings it back at once, another workflow doesn't.
    afterFrames(WAITS, () => {
      if (!shown().some(({ owner }) => owner === enlarged)) enlarged = "";
    });
  }

  /** @param {KeyboardEvent} event that the editor had no use for */
  onKey(event) {
    if (event.key !== "Escape" || !this.popover || !this.editor) return;
    event.stopPropagation();
    enlarge(this.editor.root, false);
  }
}
customElements.define(TAG, EditorHolder);
