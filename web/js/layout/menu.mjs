// The menu of the right mouse button, on a box, a row or free ground.

import { alignBox, distribute } from "./aligning.mjs";
import { bringToFront, isInFront, sendBack } from "./arranging.mjs";
import { element, textButton } from "./elements.mjs";
import { pixelFields } from "./pixel_fields.mjs";
import { setShape } from "./polygon.mjs";

/** @typedef {import("./aligning.mjs").Edge} Edge */

/** @type {[0 | 1, "distributeAcross" | "distributeDown"][]} */
const AXES = [
  [0, "distributeAcross"],
  [1, "distributeDown"],
];

/** @type {Edge[]} */
const EDGES = ["left", "centre", "right", "top", "middle", "bottom"];

export class Menu {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.root of the editor
   * @param {import("./host.mjs").Host} parts.host
   * @param {import("./subjects.mjs").Subjects} parts.subjects
   * @param {import("./clipboard.mjs").Clipboard} parts.clipboard
   * @param {import("./note.mjs").Note} parts.note
   * @param {(event: MouseEvent) => number} parts.indexAt the subject that an event is on
   */
  constructor({ root, host, subjects, clipboard, note, indexAt }) {
    this.host = host;
    this.subjects = subjects;
    this.clipboard = clipboard;
    this.note = note;
    this.indexAt = indexAt;
    this.root = element("div", { className: "msd-menu", role: "menu", popover: "auto" });
    root.append(this.root);
    root.addEventListener("contextmenu", (event) => this.onContextMenu(event));
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("pointerdown", (event) => event.stopPropagation()); // it drags the node
  }

  /** @param {MouseEvent} event */
  onContextMenu(event) {
    event.stopPropagation();
    if (event.target instanceof HTMLInputElement) return; // the browser's own, for its text
    event.preventDefault();
    if (this.root.contains(/** @type {Node} */ (event.target)) || !this.subjects.editable) return;
    const byKey = event.button !== 2;
    const index = byKey ? this.subjects.selected : this.indexAt(event);
    if (index >= 0) this.subjects.select(index, "canvas");
    this.root.replaceChildren(...this.itemsOf(index));
    this.root.showPopover();
    const { width, height } = this.root.getBoundingClientRect();
    this.root.style.left = `${Math.max(0, Math.min(event.clientX, innerWidth - width))}px`;
    this.root.style.top = `${Math.max(0, Math.min(event.clientY, innerHeight - height))}px`;
    this.root.querySelector("button")?.focus();
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const isField = event.target instanceof HTMLInputElement;
    if (isField && event.key !== "Escape") return event.stopPropagation(); // the host has keys
    const step = { ArrowDown: 1, ArrowUp: -1, Escape: 0 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (step === 0) return this.root.hidePopover(); // the host may keep the key from the browser
    const buttons = [...this.root.querySelectorAll("button")];
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    buttons[(at + step + buttons.length) % buttons.length].focus();
  }

  /** @param {number} index of the subject, -1 for none */
  itemsOf(index) {
    const { clipboard, subjects } = this;
    const { text } = this.host;
    const items = index < 0 ? [] : this.subjectItems(index);
    items.push(this.item(text("copyLayout"), () => clipboard.copyLayout()));
    items.push(this.item(text("pasteLayout"), () => clipboard.paste()));
    if (!subjects.boxesEditable) return items;
    if (subjects.list.filter(({ box }) => box).length > 2)
      for (const [axis, name] of AXES)
        items.push(this.item(text(name), () => distribute(subjects, axis)));
    items.push(this.item(text("clearBoxes"), () => subjects.clearBoxes()));
    return items;
  }

  /** @param {number} index */
  subjectItems(index) {
    const { subjects } = this;
    const { text } = this.host;
    const { list } = subjects;
    const items = [];
    const { box, off, front } = list[index];
    const encoded = this.host.encoded(index);
    if (encoded) items.push(this.encodedPicture(encoded));
    if (subjects.boxesEditable && box) {
      items.push(this.alignment(index, box));
      items.push(pixelFields(this.host, box, (changed) => subjects.setBox(index, changed)));
    }
    if (box && list.length > 1 && !isInFront(subjects, index))
      items.push(this.item(text("bringToFront"), () => bringToFront(subjects, index)));
    if (front) items.push(this.item(text("sendBack"), () => sendBack(subjects, index)));
    if (subjects.boxesEditable)
      for (const [other, { phrase }] of list.entries()) {
        if (other === index || !(box || list[other].box)) continue;
        const words = text("swapBoxes", { n: other + 1, phrase: phrase || text("noPhrase") });
        items.push(this.item(words, () => subjects.swapBoxes(index, other)));
      }
    const around = this.host.reference(index).mask?.box;
    if (around && subjects.boxesEditable)
      items.push(this.item(text("boxFromMask"), () => this.setBox(index, around)));
    if (this.host.canPaintMask(index))
      items.push(this.item(text("paintMask"), () => this.paintMask(index)));
    items.push(this.item(text(off ? "switchOn" : "switchOff"), () => subjects.toggle(index)));
    items.push(this.item(text("remove"), () => subjects.remove(index)));
    return items;
  }

  /** @param {number} index */
  async paintMask(index) {
    this.host.enlarge(false); // it would be above the mask editor
    try {
      await this.host.paintMask(index);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.note.say(this.host.text("noMaskEditor", { reason }));
    }
  }

  /** The reference as the encoder saw it. @param {string} address */
  encodedPicture(address) {
    const words = this.host.text("encoded");
    const caption = element("figcaption", { textContent: words });
    const picture = element("img", { src: address, alt: words });
    return element("figure", { className: "msd-encoded" }, caption, picture);
  }

  /**
   * Give a subject a box in place of any shape.
   * @param {number} index
   * @param {import("./value.mjs").Box} box
   */
  setBox(index, box) {
    setShape(this.subjects.list[index], { box });
    this.subjects.store();
  }

  /**
   * A line of buttons that move a box to an edge or the middle of the picture.
   * @param {number} index
   * @param {import("./value.mjs").Box} box
   */
  alignment(index, box) {
    const buttons = EDGES.map((edge) =>
      this.item(this.host.text(edge), () => this.subjects.setBox(index, alignBox(box, edge))),
    );
    const name = this.host.text("align");
    const caption = element("span", { className: "msd-caption", textContent: name });
    const group = { className: "msd-align", role: "group", "aria-label": name };
    return element("div", group, caption, ...buttons);
  }

  /**
   * @param {string} words
   * @param {() => void} act
   * @returns {HTMLElement}
   */
  item(words, act) {
    const click = () => {
      this.root.hidePopover();
      act();
    };
    return textButton(words, click, { className: "msd-item", role: "menuitem" });
  }
}
