// The widget of MSD Layout's value. Its text is the value as JSON.
import { app } from "../../../scripts/app.js";

const HEIGHT = 160;

function layoutWidget(node, name, data) {
  const text = document.createElement("textarea");
  text.className = "comfy-multiline-input";
  text.spellcheck = false;
  let value = data?.[1]?.default ?? { version: 1, subjects: [] };
  const show = () => {
    text.value = typeof value === "string" ? value : JSON.stringify(value, null, 1);
  };
  show();
  text.addEventListener("input", () => {
    try {
      value = JSON.parse(text.value);
    } catch {
      value = text.value; // kept as it is; the server says what is wrong with it
    }
  });
  const widget = node.addDOMWidget(name, "msd_layout", text, {
    getValue: () => value,
    setValue: (given) => {
      value = given ?? { version: 1, subjects: [] };
      show();
    },
    getMinHeight: () => HEIGHT,
  });
  widget.options.socketless = true; // promoted out of a subgraph it would lose its value
  widget.options.hideInPanel = true; // the panel would show it empty
  return { widget, minWidth: 320, minHeight: HEIGHT };
}

app.registerExtension({
  name: "ms_diffusion.layout",
  getCustomWidgets: () => ({ MSD_LAYOUT: layoutWidget }),
});
