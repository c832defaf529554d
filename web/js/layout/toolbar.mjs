// The bar above the canvas: presets, and switches that hold for every editor of the page.

import { element, textButton } from "./elements.mjs";
import { PRESET_NAMES } from "./presets.mjs";

/** @typedef {"snapping" | "showCells"} Switch */

export class Toolbar {
  /**
   * @param {Pick<import("./host.mjs").Host, "text">} host
   * @param {import("./subjects.mjs").Subjects} subjects
   * @param {Record<Switch, boolean>} switches
   */
  constructor({ text }, subjects, switches) {
    this.text = text;
    this.subjects = subjects;
    this.switches = switches;
    this.presets = this.createPresets();
    this.buttons = {
      snapping: this.createSwitch("snapping"),
      showCells: this.createSwitch("showCells"),
    };
    const { snapping, showCells } = this.buttons;
    this.root = element("div", { className: "msd-bar" }, this.presets, snapping, showCells);
  }

  createPresets() {
    const { subjects, text } = this;
    const presets = element("select", { "aria-label": text("presets"), title: text("order") });
    presets.append(element("option", { value: "", textContent: text("presets") }));
    for (const name of PRESET_NAMES)
      presets.append(element("option", { value: name, textContent: text(name) }));
    presets.addEventListener("change", () => {
      const name = PRESET_NAMES.find((one) => one === presets.value);
      if (name && subjects.boxesEditable) subjects.usePreset(name);
      presets.value = "";
    });
    presets.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return; // while closed, it would pick the next preset
      event.preventDefault();
      presets.showPicker();
    });
    return presets;
  }

  /** @param {Switch} name */
  createSwitch(name) {
    const flip = () => {
      this.switches[name] = !this.switches[name];
      this.subjects.refresh();
    };
    return textButton(this.text(name), flip, { title: this.text(`${name}Hint`) });
  }

  refresh() {
    this.presets.disabled = !this.subjects.boxesEditable;
    for (const name of /** @type {Switch[]} */ (Object.keys(this.buttons)))
      this.buttons[name].setAttribute("aria-pressed", String(this.switches[name]));
  }
}
