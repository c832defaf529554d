// The widget of MSD Layout's value: everything that ties the editor to ComfyUI's front end.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { LayoutEditor } from "./layout/editor.mjs";
import { linkOf, numberFrom, slotOf, sourceOf } from "./layout/sources.mjs";
import { loadTexts, text } from "./layout/texts.mjs";
import { MOST_SUBJECTS, clamp } from "./layout/value.mjs";

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

/** Width or height of the picture: the number typed, or the one that comes by a link. */
function pixels(node, name, told) {
  const source = sourceOf(node, name);
  const typed = node.widgets?.find((widget) => widget.name === name)?.value;
  const { value, certain } = numberFrom(source);
  const linked = certain ? value : (told ?? value);
  const found = [source === null ? typed : linked, typed].find((one) => one > 0) ?? 1024;
  return clamp(found, 16, 16384); // as the node takes them
}

/** Address of a picture of the server's; only ever its own route. */
function pictureAddress(name, folder, type) {
  return api.apiURL(`/view?${new URLSearchParams({ filename: name, subfolder: folder, type })}`);
}

/** Address of the picture of a reference, or null. `copy`: its name as the last run has told it. */
function referenceAddress(source, copy) {
  const node = source?.node;
  const file = linkOf(node ?? {}, "image")
    ? sourceOf(node, "image")?.value // of the subgraph's node around it
    : node?.widgets?.find((widget) => widget.name === "image")?.value;
  if (node?.comfyClass === "LoadImage" && typeof file === "string") {
    const [, folder, name, type] = FILE.exec(file);
    return pictureAddress(name, folder ?? "", type ?? "input");
  }
  return copy ? pictureAddress(copy, "", "temp") : null; // a picture that only a run can know
}

/** Ids of the references' links, as far as they are connected without a gap. */
function referenceLinks(node) {
  const links = [];
  while (links.length < MOST_SUBJECTS) {
    const link = linkOf(node, `references.reference_${links.length + 1}`);
    if (!link) break;
    links.push(link.id);
  }
  return links;
}

/**
 * Put the sockets in order: loading makes the host move growing ones behind the others, or between
 * them. Each link goes with its socket.
 */
function sortSockets(node) {
  const order = ["references.", "reference_masks.", "regions.", "boxes", "width", "height"];
  const rank = ({ name }) => {
    const group = order.findIndex((start) => name.startsWith(start));
    return [group < 0 ? order.length : group, Number(/\d*$/.exec(name)[0])];
  };
  const sockets = [...node.inputs];
  const sorted = sockets.toSorted((a, b) => {
    const [[group, number], [otherGroup, otherNumber]] = [rank(a), rank(b)];
    return group - otherGroup || number - otherNumber;
  });
  if (sorted.every((socket, i) => socket === sockets[i])) return;
  const links = new Map(sockets.map((socket) => [socket, linkOf(node, socket.name)]));
  const linked = sorted.filter((socket) => links.get(socket));
  // Not straight to its place: in newer front ends no two links may end in the same one.
  linked.forEach((socket, i) => (links.get(socket).target_slot = sockets.length + i));
  node.inputs.splice(0, sockets.length, ...sorted);
  for (const socket of linked) links.get(socket).target_slot = sorted.indexOf(socket);
}

/** What a run of the node has told, checked; null if it told nothing that can be read. */
function readRun(output) {
  try {
    const { boxes, linked, size } = JSON.parse(output.msd_layout[0]);
    const references = output.msd_references.filter((name) => SMALL_FILE.test(name));
    return {
      references,
      boxes: linked && Array.isArray(boxes) ? boxes : [],
      size: Array.isArray(size) ? size : [], // older versions of the node tell none
    };
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

const held = new Set(); // ends of the undo steps that are held

/** Make one undo step of what happens within the next frames: the host moves links and grows nodes. */
function holdUndoStep() {
  const tracker = changeTracker();
  if (!tracker || app.configuringGraph) return;
  tracker.beforeChange();
  const end = () => {
    if (!held.delete(end)) return;
    if (changeTracker() === tracker) tracker.afterChange();
    else tracker.changeCount--; // another workflow is open by now
  };
  held.add(end);
  afterFrames(4, end);
}

// The host undoes in the frame after the key: what is held must be in its history by then.
window.addEventListener(
  "keydown",
  (event) => {
    if ((event.ctrlKey || event.metaKey) && /^[zy]$/i.test(event.key)) for (const end of held) end();
  },
  true,
);

/**
 * The element that the host puts on the screen, with an editor in it. Nodes 2.0 keeps the one that it
 * shows when undo makes the node anew; so the editor of the node that lives now moves into it.
 */
class EditorPlace extends HTMLElement {
  show(editor, name) {
    this.editor = editor;
    this.name = name; // which node of which graph this is, also for the one that undo makes anew
    if (editor.root.parentNode !== this) this.replaceChildren(editor.root);
  }

  connectedCallback() {
    if (this.editor) this.show(this.editor, this.name);
  }
}
customElements.define("msd-layout-place", EditorPlace);

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
    const told = graph && app.nodeOutputs[graph.isRootGraph ? node.id : `${graph.id}:${node.id}`];
    const now = told && JSON.stringify([told.msd_layout, told.msd_references]);
    if (now !== output) {
      [output, run] = [now, now ? readRun(told) : null];
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
    size: () => ["width", "height"].map((name, i) => pixels(node, name, lastRun()?.size[i])),
    reference: (index) => {
      const source = sourceOf(node, `references.reference_${index + 1}`);
      const address =
        source === null ? null : referenceAddress(source, lastRun()?.references[index]);
      return {
        linked: source !== null,
        image: address && picture(address),
        region: sourceOf(node, `regions.region_${index + 1}`) !== null,
      };
    },
    linkedBoxes: () => (sourceOf(node, "boxes") === null ? null : (lastRun()?.boxes ?? [])),
    onChange: endUndoStep,
    onRemove: (index) => {
      links.splice(index, 1);
      run = null;
      holdUndoStep();
      // From the last group to the first: the host moves later links up by the slots' places of now.
      for (const group of ["regions.region", "reference_masks.reference_mask", "references.reference"])
        if (linkOf(node, `${group}_${index + 1}`))
          node.disconnectInput(slotOf(node, `${group}_${index + 1}`));
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
  const place = new EditorPlace();
  const takePlace = () => {
    const name = `${node.graph.id}:${node.id}`;
    const others = document.querySelectorAll("msd-layout-place");
    const old = place.isConnected ? undefined : [...others].find((one) => one.name === name);
    (old ?? place).show(editor, name);
    Object.assign(place, { editor, name }); // for when the host shows it
  };
  const refresh = () => {
    if (!node.graph) return;
    takePlace();
    editor.refresh();
  };
  after(node, "onSerialize", (saved) => {
    saved.properties[COPY] = editor.value;
  });
  after(node, "onConfigure", (saved) => {
    sortSockets(node);
    // Saved by a front end that couldn't load this file: only the copy is left.
    const values = Array.isArray(saved.widgets_values) ? saved.widgets_values : [];
    if (!values.some((value) => value?.subjects) && saved.properties?.[COPY])
      editor.value = saved.properties[COPY];
    requestAnimationFrame(refresh);
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
  after(node, "onAdded", () => {
    takePlace();
    editor.watch();
    api.addEventListener("graphChanged", refresh);
  });
  after(node, "onRemoved", () => {
    api.removeEventListener("graphChanged", refresh);
    editor.unwatch();
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
  return [editor, place];
}

function layoutWidget(node, name, data) {
  const [editor, place] = makeEditor(node);
  editor.value = data?.[1]?.default;
  const height = () => {
    const [width, tall] = editor.host.size();
    const inner = Math.max(LEAST_WIDTH, node.size?.[0] ?? 0) - 20;
    const canvas = Math.min(MOST_HEIGHT, Math.max(160, (inner * tall) / width));
    return 22 + canvas + 30 + 28 * editor.subjects.length + 36; // 20 of it is the widget's margin
  };
  const widget = node.addDOMWidget(name, "msd_layout", place, {
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
