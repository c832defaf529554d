// The bar above the canvas: presets, and switches of what the canvas shows.

import { ASPECTS, edgeOf, sizeOf } from "./aspects.mjs";
import { element, textButton } from "./elements.mjs";
import { PRESET_NAMES } from "./presets.mjs";

/** @typedef {keyof import("./host.mjs").View} Switch */

const CLEAR = /** @type {const} */ ("clearBoxes");

export class Toolbar {
  /**
   * @param {import("./host.mjs").Host} host
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {{lasso: boolean}} page of all editors
   * @param {() => void} pick let the user choose pictures
   */
  constructor(host, subjects, page, pick) {
    this.host = host;
    this.subjects = subjects;
    this.page = page;
    /** @type {Map<string, HTMLOptionElement>} by aspect */
    this.aspects = new Map(ASPECTS.map((name) => [name, element("option", { value: name })]));
    this.edge = 0; // that the aspects' sizes are shown for
    this.boxGroup = this.createBoxGroup();
    this.sizeGroup = element("optgroup", { label: host.text("size") }, ...this.aspects.values());
    this.presets = this.createPresets();
    this.lasso = this.createLasso();
    this.buttons = {
      snapping: this.createSwitch("snapping"),
      showCells: this.createSwitch("showCells"),
    };
    const add = textButton(host.text("add"), pick, { title: host.text("addHint") });
    this.backdrop = this.createBackdrop();
    this.opacity = this.createOpacity();
    const tools = [this.lasso, ...Object.values(this.buttons), this.backdrop, this.opacity];
    this.root = element(
      "div",
      { className: "msd-bars" },
      element("div", { className: "msd-bar" }, add, this.presets),
      element("div", { className: "msd-bar" }, ...tools),
    );
  }

  createPresets() {
    const { text } = this.host;
    const presets = element(
      "select",
      { "aria-label": text("presets"), title: text("order") },
      element("option", { value: "", textContent: text("presets") }),
      this.boxGroup,
      this.sizeGroup,
    );
    presets.addEventListener("change", () => {
      this.usePreset(presets.value);
      presets.value = "";
    });
    presets.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return; // while closed, it would pick the next preset
      event.preventDefault();
      presets.showPicker();
    });
    return presets;
  }

  createBoxGroup() {
    const { text } = this.host;
    const options = [...PRESET_NAMES, CLEAR].map((name) =>
      element("option", { value: name, textContent: text(name) }),
    );
    return element("optgroup", { label: text("boxes") }, ...options);
  }

  /** @param {string} value of an option */
  usePreset(value) {
    const { host, subjects } = this;
    const name = PRESET_NAMES.find((one) => one === value);
    if (this.aspects.has(value)) host.resize(sizeOf(value, edgeOf(host.size())));
    else if (value === CLEAR) subjects.clearBoxes();
    else if (name) subjects.usePreset(name);
  }

  /** @param {Switch} name */
  createSwitch(name) {
    const flip = () => {
      const view = this.host.view();
      this.host.setView({ ...view, [name]: !view[name] });
      this.subjects.refresh();
      this.host.onChange();
    };
    return textButton(this.host.text(name), flip, { title: this.host.text(`${name}Hint`) });
  }

  createLasso() {
    const flip = () => {
      this.page.lasso = !this.page.lasso;
      this.subjects.refresh();
    };
    return textButton(this.host.text("lasso"), flip, { title: this.host.text("lassoHint") });
  }

  /** The switch of the picture behind the boxes; it is the node's, not the page's. */
  createBackdrop() {
    const { host, subjects } = this;
    const flip = () => {
      const { on, opacity } = host.backdrop();
      host.setBackdrop({ on: !on, opacity });
      subjects.refresh();
      host.onChange();
    };
    return textButton(host.text("backdrop"), flip, { title: host.text("backdropHint") });
  }

  createOpacity() {
    const { host, subjects } = this;
    const name = host.text("opacity");
    const range = { type: "range", min: "0", max: "1", step: "0.05" };
    const input = element("input", { ...range, title: name, "aria-label": name });
    input.addEventListener("input", () => {
      host.setBackdrop({ on: true, opacity: input.valueAsNumber });
      subjects.refresh();
    });
    input.addEventListener("change", () => host.onChange());
    input.addEventListener("pointerdown", (event) => event.stopPropagation()); // it drags the node
    return input;
  }

  /** @param {number} edge of the square with as many pixels */
  showSizes(edge) {
    if (edge === this.edge) return;
    this.edge = edge;
    for (const [name, option] of this.aspects)
      option.textContent = `${name}  (${sizeOf(name, edge).join(" × ")})`;
  }

  refresh() {
    this.boxGroup.disabled = !this.subjects.boxesEditable;
    this.sizeGroup.disabled = !this.host.sizeEditable();
    this.showSizes(edgeOf(this.host.size()));
    const view = this.host.view();
    const { on, opacity } = this.host.backdrop();
    this.lasso.setAttribute("aria-pressed", String(this.page.lasso));
    this.backdrop.setAttribute("aria-pressed", String(on));
    this.opacity.hidden = !on;
    this.opacity.value = String(opacity);
    for (const name of /** @type {Switch[]} */ (Object.keys(this.buttons)))
      this.buttons[name].setAttribute("aria-pressed", String(view[name]));
  }
}
