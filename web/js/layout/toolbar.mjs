// The bar above the canvas: presets, and switches of what the canvas shows.

import { ASPECTS, edgeOf, sizeOf } from "./aspects.mjs";
import { element, textButton } from "./elements.mjs";
import { PRESET_NAMES } from "./presets.mjs";

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
    /** @type {Map<HTMLButtonElement, () => boolean>} whether each is on */
    this.switches = new Map();
    const add = textButton(host.text("add"), pick, { title: host.text("addHint") });
    const enlarged = this.createSwitch("enlarged", host.isEnlarged, host.enlarge);
    this.opacity = this.createOpacity();
    const tools = [...this.createTools(), this.opacity];
    this.root = element(
      "div",
      { className: "msd-bars" },
      element("div", { className: "msd-bar" }, add, this.presets, enlarged),
      element("div", { className: "msd-bar" }, ...tools),
    );
  }

  /** The switches of how shapes are drawn, and of what the canvas shows. */
  createTools() {
    const { host, page } = this;
    const views = /** @type {const} */ (["snapping", "showCells"]).map((name) =>
      this.createSwitch(
        name,
        () => host.view()[name],
        (on) => {
          host.setView({ ...host.view(), [name]: on });
          host.onChange();
        },
      ),
    );
    const lasso = this.createSwitch(
      "lasso",
      () => page.lasso,
      (on) => Object.assign(page, { lasso: on }),
    );
    const backdrop = this.createSwitch(
      "backdrop",
      () => host.backdrop().on,
      (on) => {
        host.setBackdrop({ on, opacity: host.backdrop().opacity });
        host.onChange();
      },
    );
    return [lasso, ...views, backdrop];
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

  /**
   * @param {"lasso" | "snapping" | "showCells" | "backdrop" | "enlarged"} name
   * @param {() => boolean} isOn
   * @param {(on: boolean) => void} set
   */
  createSwitch(name, isOn, set) {
    const { host, subjects } = this;
    const flip = () => {
      set(!isOn());
      subjects.refresh();
    };
    const button = textButton(host.text(name), flip, { title: host.text(`${name}Hint`) });
    this.switches.set(button, isOn);
    return button;
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
    const { on, opacity } = this.host.backdrop();
    this.opacity.hidden = !on;
    this.opacity.value = String(opacity);
    for (const [button, isOn] of this.switches) button.setAttribute("aria-pressed", String(isOn()));
  }
}
