// The element that the host puts on the screen, with an editor in it. Nodes 2.0 keeps the element on the
// screen when undo creates the node again; so the editor of the node that lives now moves into it.

/** @typedef {import("../layout/editor.mjs").LayoutEditor} LayoutEditor */

const TAG = "msd-layout-holder";

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
    const others = /** @type {NodeListOf<EditorHolder>} */ (document.querySelectorAll(TAG));
    const earlier = this.isConnected ? null : [...others].find((one) => one.owner === owner);
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
  }

  connectedCallback() {
    if (this.editor) this.show(this.editor, this.owner);
  }
}
customElements.define(TAG, EditorHolder);
