// One subject's row: number, reference, phrase, weight, whether it has a box, remove.

import { colourOf, inkOn, isHatched } from "./colours.mjs";
import { element, textButton } from "./elements.mjs";
import { shownPolygon } from "./polygon.mjs";
import { MAX_LETTERS, MAX_WEIGHT } from "./value.mjs";

// One clear pixel: without a source the browser would draw its sign of a broken image.
const BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

/**
 * @typedef {object} Actions
 * @property {() => void} focusCanvas
 * @property {(index: number) => void} pick let the user choose the reference
 */

export class Row {
  /**
   * @param {number} index
   * @param {Pick<import("./host.mjs").Host, "text" | "onChange" | "invertMask">} host
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {Actions} actions
   */
  constructor(index, { text, onChange, invertMask }, subjects, { focusCanvas, pick }) {
    this.index = index;
    this.text = text;
    this.subjects = subjects;
    this.thumb = element("img", { className: "msd-thumb", draggable: false });
    this.phrase = this.createPhrase(onChange);
    this.weight = this.createWeight();
    this.box = element("span", { className: "msd-place" });
    const number = { n: index + 1 };
    const choose = textButton("", () => pick(index), {
      className: "msd-choose",
      title: text("choose"),
      "aria-label": text("chooseFor", number),
    });
    choose.append(this.thumb);
    const select = textButton(
      String(index + 1),
      () => {
        subjects.select(index);
        focusCanvas();
      },
      {
        className: "msd-chip",
        title: text("moveHint"),
        "aria-label": text("selectSubject", number),
      },
    );
    select.style.background = colourOf(index);
    select.style.color = inkOn(index);
    select.dataset.hatched = String(isHatched(index));
    this.on = textButton("", () => subjects.toggle(index), {
      className: "msd-button msd-on",
      role: "switch",
      "aria-label": text("onOf", number),
    });
    this.invert = textButton(text("invertMask"), () => invertMask(index), {
      className: "msd-button msd-invert",
      title: text("invertMaskHint"),
    });
    const remove = textButton(
      "×",
      () => {
        subjects.remove(index);
        focusCanvas();
      },
      { title: text("remove"), "aria-label": text("removeSubject", number) },
    );
    this.root = element(
      "li",
      { className: "msd-row" },
      select,
      choose,
      this.phrase,
      this.on,
      remove,
      element(
        "div",
        { className: "msd-label" },
        element(
          "label",
          { className: "msd-label", title: text("weightHint") },
          element("span", { textContent: text("weight") }),
          this.weight,
        ),
        this.invert,
      ),
      this.box,
    );
  }

  /** @param {() => void} onChange */
  createPhrase(onChange) {
    const { index, subjects, text } = this;
    const phrase = element("input", {
      type: "text",
      className: "msd-phrase",
      maxLength: MAX_LETTERS,
      required: true,
      placeholder: text("phrase"),
      title: text("phraseHint"),
      "aria-label": text("phraseOf", { n: index + 1 }),
    });
    phrase.addEventListener("input", () => subjects.setPhrase(index, phrase.value));
    phrase.addEventListener("change", onChange);
    this.onFocusSelect(phrase);
    return phrase;
  }

  createWeight() {
    const { index, subjects, text } = this;
    const weight = element("input", {
      type: "number",
      className: "msd-weight",
      min: "0",
      max: String(MAX_WEIGHT),
      step: "0.05",
      "aria-label": text("weightOf", { n: index + 1 }),
    });
    weight.addEventListener("change", () => {
      subjects.setWeight(index, weight.valueAsNumber);
      weight.value = String(subjects.list[index].weight);
    });
    this.onFocusSelect(weight);
    return weight;
  }

  /** @param {HTMLInputElement} input */
  onFocusSelect(input) {
    input.addEventListener("focus", () => this.subjects.select(this.index, "typing"));
    input.addEventListener("pointerdown", (event) => event.stopPropagation());
  }

  /**
   * @param {import("./value.mjs").Subject} subject
   * @param {import("./value.mjs").Box | null | undefined} box
   * @param {import("./host.mjs").Reference} reference
   * @param {boolean} leftOut for want of the reference
   */
  refresh({ phrase, weight, off }, box, { linked, image, region, inverted }, leftOut) {
    const shaped = shownPolygon(this.subjects, this.index);
    const { text, index } = this;
    this.root.setAttribute("aria-current", String(index === this.subjects.selected));
    if (this.phrase.value !== phrase) this.phrase.value = phrase;
    // A weight that is being typed stays; one that is set from elsewhere, as by undo, is shown.
    if (this.weight.dataset.shown !== String(weight))
      this.weight.dataset.shown = this.weight.value = String(weight);
    this.invert.hidden = !inverted;
    this.root.dataset.off = String(Boolean(off || leftOut));
    this.on.setAttribute("aria-checked", String(!off));
    this.on.textContent = text(off ? "off" : "on");
    this.on.title = text(off ? "offHint" : "onHint");
    this.thumb.src = image?.src || BLANK;
    this.thumb.dataset.missing = String(!image?.src);
    this.thumb.alt = text(linked ? "referenceOf" : "noReferenceOf", { n: index + 1 });
    const placed = region ? "mask" : shaped ? "shape" : box ? "box" : "noBox";
    const kind = leftOut ? "noReference" : placed;
    this.box.textContent = text(kind);
    this.box.title = text(`${kind}Hint`);
    this.box.dataset.missing = String(kind.startsWith("no"));
  }

  /**
   * Mark a phrase that the positive prompt doesn't have.
   * @param {import("./value.mjs").Subject} subject
   * @param {string | null} prompt
   */
  compare({ phrase, off }, prompt) {
    const plain = (/** @type {string} */ words) => words.toLowerCase().replace(/\s+/g, " ").trim();
    const absent = prompt !== null && !off && !plain(prompt).includes(plain(phrase));
    this.phrase.dataset.absent = String(absent);
    this.phrase.title = this.text(absent ? "absentHint" : "phraseHint");
  }

  focusPhrase() {
    this.phrase.focus();
    this.phrase.select();
  }
}
