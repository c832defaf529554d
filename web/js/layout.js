// The widget of MSD Layout's value: everything that ties the editor to ComfyUI's front end.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { LayoutEditor } from "./layout/editor.mjs";
import { loadTexts, text } from "./layout/texts.mjs";
import { MOST_SUBJECTS } from "./layout/value.mjs";

const LEAST_WIDTH = 340;
const MOST_HEIGHT = 560; // of the canvas
// Property of the node that holds a copy of the value. A front end that doesn't load this file keeps
// it, while it loses the widget's value; the node runs by it then (nodes/layout.py).
const COPY = "msd_layout";
const FILE = /^(?:(.*)\/)?([^/]*?)(?: \[(input|output|temp)\])?$/s; // folder, name, kind of folder
const SMALL_FILE = /^msd_reference_[\w.-]+\.png$/; // as the node names its copies of the references

/** Call `then` after an object's own handler. */
function after(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}

/** The input slot of a node by name, and its index; undefined where there is none. */
function slotOf(node, name) {
  const index = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return index < 0 ? undefined : { index, ...node.inputs[index] };
}

const isLinked = (node, name) => (slotOf(node, name)?.link ?? null) !== null;

/** The node that feeds a slot; null beyond a subgraph's border, and while `node` is in no graph. */
function sourceOf(node, name) {
  // A clone gets its value before it has a graph, and asking then throws.
  return node.graph && isLinked(node, name) ? node.getInputNode(slotOf(node, name).index) : null;
}

/** Width or height: the number typed, or that of the linked node where it is plain to see. */
function pixels(node, name) {
  const named = (widgets) => widgets?.find((widget) => widget.name === name);
  const source = sourceOf(node, name)?.widgets;
  const values = [(named(source) ?? source?.[0])?.value, named(node.widgets)?.value];
  const found = values.find((value) => typeof value === "number" && value > 0) ?? 1024;
  return Math.min(Math.max(found, 16), 16384); // as the node takes them
}

/** Address of a picture of the server's; only ever its own route. */
function pictureAddress(name, folder, type) {
  return api.apiURL(`/view?${new URLSearchParams({ filename: name, subfolder: folder, type })}`);
}

/** Address of the picture of reference `index`, or null. `run`: see readRun. */
function referenceAddress(node, index, run) {
  const source = sourceOf(node, `references.reference_${index + 1}`);
  const file = source?.widgets?.find((widget) => widget.name === "image")?.value;
  if (source?.comfyClass === "LoadImage" && typeof file === "string") {
    const [, folder, name, type] = FILE.exec(file);
    return pictureAddress(name, folder ?? "", type ?? "input");
  }
  // Processed on its way, or from outside of a subgraph: the small copy of the last run.
  const copy = run?.references[index];
  return copy ? pictureAddress(copy, "", "temp") : null;
}

/** The links of the references, as far as they are connected without a gap. */
function referenceLinks(node) {
  const links = [];
  while (links.length < MOST_SUBJECTS) {
    const slot = slotOf(node, `references.reference_${links.length + 1}`);
    if ((slot?.link ?? null) === null) break;
    links.push(slot.link);
  }
  return links;
}

/** What a run of the node has told, checked; null if it told nothing that can be read. */
function readRun(output) {
  try {
    const { boxes, linked } = JSON.parse(output.msd_layout[0]);
    const references = output.msd_references.filter((name) => SMALL_FILE.test(name));
    return { references, boxes: linked && Array.isArray(boxes) ? boxes : [] };
  } catch {
    return null;
  }
}

const afterFrames = (count, then) =>
  requestAnimationFrame(() => (count > 1 ? afterFrames(count - 1, then) : then()));

function changeTracker() {
  return app.extensionManager.workflow.activeWorkflow?.changeTracker;
}

function endUndoStep() {
  const tracker = changeTracker();
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState(); // its name in older front ends
}

/** Make one undo step of what happens within the next frames: the host moves links and grows nodes. */
function holdUndoStep() {
  const tracker = changeTracker();
  if (!tracker || app.configuringGraph) return;
  tracker.beforeChange();
  afterFrames(4, () => {
    if (changeTracker() === tracker) tracker.afterChange();
    else tracker.changeCount--; // another workflow is open by now
  });
}

const removed = new Map(); // elements of removed nodes, by place

function makeEditor(node) {
  const pictures = new Map(); // by address
  const picture = (address) => {
    if (!pictures.has(address)) {
      const image = new Image();
      image.onload = () => editor.refresh();
      image.src = address;
      pictures.set(address, image);
    }
    return pictures.get(address);
  };
  // The host keeps a node's outputs, also when undo makes the node anew.
  let [output, run] = [undefined, null];
  const lastRun = () => {
    const { graph } = node;
    const now = graph && app.nodeOutputs[graph.isRootGraph ? node.id : `${graph.id}:${node.id}`];
    if (now !== output) {
      [output, run] = [now, now ? readRun(now) : null];
      for (const address of pictures.keys())
        if (address.includes("type=temp")) pictures.delete(address);
    }
    return run;
  };
  let links = []; // of the references that the subjects belong to
  // The host moves later references up when one is disconnected; the subjects go with them.
  const followReferences = () => {
    const now = referenceLinks(node);
    if (now.every((link) => links.includes(link))) {
      const moved = editor.reorder(now.map((link) => links.indexOf(link)), links.length);
      if (moved) run = null; // its pictures belong to the old order
    }
    links = now;
    editor.addSubjects(now.length);
  };
  const editor = new LayoutEditor({
    size: () => [pixels(node, "width"), pixels(node, "height")],
    reference: (index) => {
      const linked = isLinked(node, `references.reference_${index + 1}`);
      const address = linked ? referenceAddress(node, index, lastRun()) : null;
      return {
        linked,
        image: address && picture(address),
        region: isLinked(node, `regions.region_${index + 1}`),
      };
    },
    linkedBoxes: () => (isLinked(node, "boxes") ? (lastRun()?.boxes ?? []) : null),
    onChange: endUndoStep,
    onRemove: (index) => {
      links.splice(index, 1);
      run = null;
      holdUndoStep();
      // From the last group to the first: the host moves later links up by the slots' places of now.
      for (const group of ["regions.region", "reference_masks.reference_mask", "references.reference"])
        if (isLinked(node, `${group}_${index + 1}`))
          node.disconnectInput(slotOf(node, `${group}_${index + 1}`).index);
    },
    onRows: () => {
      if (!node.graph) return;
      holdUndoStep();
      requestAnimationFrame(() => {
        const [width, height] = node.size;
        const least = node.computeSize()[1];
        if (height < least) node.setSize([width, least]);
        app.canvas?.setDirty(true, true);
      });
    },
    onOtherButton: (event) => {
      if (event.button === 1 && inGraph()) app.canvas.processMouseDown(event);
    },
    text,
  });
  const inGraph = () => Boolean(editor.root.closest(".graph-canvas-container"));
  editor.root.addEventListener(
    "wheel", // zooms the graph, as everywhere else in it
    (event) => {
      if (!inGraph()) return;
      event.preventDefault();
      event.stopPropagation();
      app.canvas.processMouseWheel(event);
    },
    { passive: false },
  );
  let place = null; // which node of which graph this is, also for the one that undo makes anew
  const refresh = () => {
    if (!node.graph) return;
    place = `${node.graph.id}:${node.id}`;
    editor.refresh();
  };
  after(node, "onSerialize", (saved) => {
    saved.properties[COPY] = editor.value;
  });
  after(node, "onConfigure", (saved) => {
    // Saved by a front end that couldn't load this file: only the copy is left.
    const values = Array.isArray(saved.widgets_values) ? saved.widgets_values : [];
    if (!values.some((value) => value?.subjects) && saved.properties?.[COPY])
      editor.value = saved.properties[COPY];
    requestAnimationFrame(refresh);
    // Nodes 2.0 mounts a widget's element once, and after undo would show the removed node's.
    afterFrames(10, () => {
      const old = removed.get(place);
      if (node.graph && old?.isConnected && !editor.root.isConnected) old.replaceWith(editor.root);
      removed.delete(place);
    });
  });
  after(node, "onConnectionsChange", () => {
    const loading = app.configuringGraph;
    if (node.graph) holdUndoStep();
    afterFrames(2, () => {
      if (!node.graph) return;
      if (loading) links = referenceLinks(node);
      else followReferences();
      refresh();
    });
  });
  after(node, "onExecuted", refresh);
  // Another picture in a linked Load Image, another number in a linked width
  after(node, "onAdded", () => api.addEventListener("graphChanged", refresh));
  after(node, "onRemoved", () => {
    api.removeEventListener("graphChanged", refresh);
    editor.destroy();
    removed.set(place, editor.root);
  });
  queueMicrotask(() => {
    for (const widget of node.widgets ?? [])
      if (widget.name === "width" || widget.name === "height")
        after(widget, "callback", () => {
          refresh();
          // The canvas keeps its width, so that its height follows the aspect, up or down.
          node.setSize([node.size[0], node.computeSize()[1]]);
        });
    refresh();
  });
  return editor;
}

function layoutWidget(node, name, data) {
  const editor = makeEditor(node);
  editor.value = data?.[1]?.default;
  const height = () => {
    const [width, tall] = editor.host.size();
    const inner = Math.max(LEAST_WIDTH, node.size?.[0] ?? 0) - 20;
    const canvas = Math.min(MOST_HEIGHT, Math.max(160, (inner * tall) / width));
    return 22 + canvas + 30 + 28 * editor.subjects.length + 36; // 20 of it is the widget's margin
  };
  const widget = node.addDOMWidget(name, "msd_layout", editor.root, {
    getValue: () => editor.value,
    setValue: (value) => {
      editor.value = value;
    },
    getMinHeight: height,
    hideOnZoom: false,
  });
  widget.options.socketless = true; // promoted out of a subgraph it would lose its value
  widget.options.hideInPanel = true; // the panel would show it empty, and squeeze the node's
  return { widget, minWidth: LEAST_WIDTH + 20, minHeight: 420 };
}

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("./layout/layout.css", import.meta.url).href;
document.head.append(style);

app.registerExtension({
  name: "ms_diffusion.layout",
  getCustomWidgets: () => ({ MSD_LAYOUT: layoutWidget }),
  init: () => loadTexts(api, () => app.extensionManager.setting.get("Comfy.Locale")),
});
