// The element that the host puts on the screen, with an editor in it. Where undo creates the node again,
// Nodes 2.0 and the app mode keep the earlier node's element on the screen; so the editor of the node that
// lives now moves into it.

import { afterFrames } from "./frames.mjs";
import { isInGraph } from "./wheel.mjs";

/** @typedef {import("../layout/editor.mjs").LayoutEditor} LayoutEditor */

const TAG = "msd-layout-holder";

const WAITS = 30; // frames
let enlarged = ""; // the owner of the editor that fills the window

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

/** @returns {EditorHolder[]} those on the screen, or in the graph behind the app mode */
const connectedHolders = () =>
  [...document.querySelectorAll(TAG)].map((one) => /** @type {any} */ (one));

export class EditorHolder extends HTMLElement {
  /** @type {LayoutEditor | null} */
  editor = null;
  /** Which node of which graph this is, also for the one that undo creates. */
  owner = "";
  /** @type {HTMLElement | null} where the app mode had it */
  inApp = null;

  /**
   * Show an editor where its node is on the screen.
   * @param {LayoutEditor} editor
   * @param {string} owner
   */
  hold(editor, owner) {
    Object.assign(this, { editor, owner });
    this.place();
  }

  /** Those of this node. */
  get connected() {
    return connectedHolders().filter(({ owner }) => owner === this.owner);
  }

  /** Put the editor into the app mode's element, else into this one or the earlier node's. */
  place() {
    if (!this.editor) return;
    const { connected, editor } = this;
    const inApp = connected.find((one) => !isInGraph(one));
    const shown = inApp ?? (this.isConnected ? this : (connected[0] ?? this));
    shown.editor = editor; // for when the host moves it
    if (editor.root.parentNode !== shown) shown.replaceChildren(editor.root);
    for (const one of connected) one.fit();
  }

  /** Fill the window, or stop it, as the owner's editor was told to. */
  fit() {
    const on = this.owner === enlarged && this.editor?.root.parentNode === this;
    if (on === Boolean(this.popover)) return;
    this.popover = on ? "manual" : null;
    if (on) this.showPopover();
    this.editor?.refresh();
  }

  /**
   * The host may put one element into the app mode first and into the graph behind it then; another one
   * stays in the app mode in its place.
   */
  connectedCallback() {
    this.addEventListener("keydown", this.onKey);
    if (!isInGraph(this)) this.inApp = this.parentElement;
    else if (this.inApp?.isConnected) {
      const other = Object.assign(new EditorHolder(), { editor: this.editor, owner: this.owner });
      this.inApp.replaceChildren(other);
    }
    this.place();
  }

  /** The app mode ends: the graph's element gets its editor back. */
  disconnectedCallback() {
    this.popover = null;
    if (!this.isConnected) this.connected[0]?.place();
    // Undo brings an enlarged editor back at once, another workflow doesn't.
    afterFrames(WAITS, () => {
      if (!connectedHolders().some(({ owner }) => owner === enlarged)) enlarged = "";
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
