// The widget of MSD Layout's value, registered with ComfyUI's front end.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { loadTexts } from "./layout/texts.mjs";
import { LayoutNode } from "./node/layout_node.mjs";

const MIN_WIDTH = 340; // of the canvas
const MAX_HEIGHT = 560;
const [ROW, MAX_ROWS] = [48, 6]; // height of a subject's, and how many show at once (rows.css)

/**
 * @param {import("./node/links.mjs").HostNode} node
 * @param {string} name
 * @param {any} data the input's type and options
 */
function layoutWidget(node, name, data) {
  const { editor, holder } = new LayoutNode(node);
  editor.value = data?.[1]?.default;
  const height = () => {
    const rows = ROW * Math.min(MAX_ROWS, editor.subjects.list.length);
    const [pictureWidth, pictureHeight] = editor.host.size();
    const width = Math.max(MIN_WIDTH, node.size?.[0] ?? 0) - 20;
    const canvas = Math.min(MAX_HEIGHT, Math.max(160, (width * pictureHeight) / pictureWidth));
    // The gap between the two bars comes off the canvas, so that nodes of earlier versions suffice.
    return 44 + canvas + 30 + rows + 36; // 20 of it is the widget's margin
  };
  const widget = /** @type {DOMWidgetNode} */ (node).addDOMWidget(name, "msd_layout", holder, {
    getValue: () => editor.value,
    setValue: (value) => {
      editor.value = value;
    },
    getMinHeight: height,
    hideOnZoom: false,
  });
  widget.options.socketless = true; // promoted out of a subgraph it would lose its value
  widget.options.hideInPanel = true; // the panel would show it empty, and squeeze the node's
  return { widget, minWidth: MIN_WIDTH + 20, minHeight: 420 };
}

for (const name of ["layout", "rows", "menu"]) {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL(`./layout/${name}.css`, import.meta.url).href;
  document.head.append(style);
}

app.registerExtension({
  name: "ms_diffusion.layout",
  getCustomWidgets: () => ({ MSD_LAYOUT: layoutWidget }),
  init: () => loadTexts(api, () => app.extensionManager.setting.get("Comfy.Locale")),
});
