// An editor tied to its MSD Layout node: what it shows follows the node's links and runs, and what is
// edited in it goes to the node's links and undo history.

import { api } from "../../../../scripts/api.js";
import { app } from "../../../../scripts/app.js";
import { LayoutEditor } from "../layout/editor.mjs";
import { text } from "../layout/texts.mjs";
import { after } from "./after.mjs";
import { Backdrop } from "./backdrop.mjs";
import { afterFrames } from "./frames.mjs";
import { EditorHolder, enlarge, isEnlarged } from "./holder.mjs";
import { encodedAddress } from "./images.mjs";
import { LastRun } from "./last_run.mjs";
import { drawnBoxes } from "./linked_boxes.mjs";
import { linkOf } from "./links.mjs";
import { upload } from "./load_image.mjs";
import { isPaintable, paintMask } from "./mask_nodes.mjs";
import { positivePrompt } from "./prompt.mjs";
import { References } from "./references.mjs";
import { pixels, setPixels } from "./size.mjs";
import { hasReferenceGap, referenceLinks, sortSockets } from "./sockets.mjs";
import { sourceOf } from "./sources.mjs";
import { endUndoStep, holdUndoStep } from "./undo_steps.mjs";
import { setView, viewOf } from "./view.mjs";
import { forwardButton, forwardWheel } from "./wheel.mjs";

const MAX_WAITS = 30; // for the host to move links, two frames each
// Property of the node that holds a copy of the value. A front end that doesn't load our files saves
// it, while it loses the widget's value; the node then runs with it (nodes/layout/node.py).
export const LAYOUT_PROPERTY = "msd_layout";

export class LayoutNode {
  /** @param {import("./links.mjs").HostNode} node */
  constructor(node) {
    this.node = node;
    this.lastRun = new LastRun(node, () => this.references.images.dropThumbnails());
    this.references = new References(node, this.lastRun, () => this.editor.refresh());
    this.backdrop = new Backdrop(node, this.lastRun, () => this.editor.stage.draw());
    this.editor = new LayoutEditor(this.createHost());
    this.holder = new EditorHolder();
    this.refresh = this.refresh.bind(this);
    this.followBoxes = this.followBoxes.bind(this);
    this.followNode();
    forwardWheel(this.editor.root);
    queueMicrotask(() => {
      this.followSizeWidgets();
      this.refresh();
    });
  }

  /** @returns {import("../layout/host.mjs").Host} */
  createHost() {
    const { node } = this;
    /** @type {import("../layout/host.mjs").Host} */
    const host = {
      size: () => {
        const size = this.lastRun.get()?.size ?? [];
        return [pixels(node, "width", size[0]), pixels(node, "height", size[1])];
      },
      sizeEditable: () => !linkOf(node, "width") && !linkOf(node, "height"),
      resize: (size) => {
        holdUndoStep(); // the node's height follows
        setPixels(node, size);
      },
      reference: (index) => this.references.get(index),
      referenceCount: () => referenceLinks(node).length,
      prompt: () => positivePrompt(node, this.editor.subjects.list),
      view: () => viewOf(node),
      setView: (view) => setView(node, view),
      upload,
      giveReference: (index, name) => this.references.give(index, name),
      encoded: (index) => encodedAddress(node, this.lastRun.get(), index),
      invertMask: (index) => {
        this.references.invert(index);
        this.refresh();
      },
      canPaintMask: (index) => isPaintable(node, index),
      paintMask: (index) =>
        paintMask(node, index, async () => upload(await this.backdrop.file(host.size()))),
      linkedBoxes: () => {
        const source = sourceOf(node, "boxes");
        if (source === null) return null;
        return drawnBoxes(source, host.size()) ?? this.lastRun.get()?.boxes ?? [];
      },
      linkedBoxesLive: () => drawnBoxes(sourceOf(node, "boxes"), host.size()) !== null,
      backdrop: () => ({ image: this.backdrop.picture(host.size()), ...this.backdrop.settings }),
      setBackdrop: (settings) => Object.assign(this.backdrop, { settings }),
      isEnlarged: () => isEnlarged(this.editor.root),
      enlarge: (on) => enlarge(this.editor.root, on),
      onChange: endUndoStep,
      onRemove: (index) => {
        holdUndoStep();
        this.references.remove(index);
      },
      wires: (index) => this.references.wires(index),
      canConnect: (wires) => this.references.canConnect(wires),
      connect: (index, wires) => {
        holdUndoStep();
        this.references.connect(index, wires);
      },
      onReorder: (order) => {
        holdUndoStep();
        this.references.reorder(order);
      },
      onRows: () => this.growNode(),
      onOtherButton: (event) => forwardButton(this.editor.root, event),
      text,
    };
    return host;
  }

  /** Make the node large enough for its rows. */
  growNode() {
    const { node } = this;
    if (!node.graph) return;
    holdUndoStep();
    requestAnimationFrame(() => {
      const [width, height] = node.size;
      const minHeight = node.computeSize()[1];
      if (height < minHeight) node.setSize([width, minHeight]);
      app.canvas?.setDirty(true, true);
    });
  }

  hold() {
    const { graph, id } = this.node;
    if (graph) this.holder.hold(this.editor, `${graph.id}:${id}`);
  }

  refresh() {
    if (!this.node.graph) return;
    this.hold();
    this.editor.refresh();
  }

  /** Boxes are drawn on another node; its editor keeps that from the undo history. */
  followBoxes() {
    if (this.editor.host.linkedBoxesLive()) afterFrames(2, this.refresh);
  }

  followNode() {
    const { editor, node } = this;
    after(node, "onSerialize", (saved) => {
      saved.properties[LAYOUT_PROPERTY] = editor.value;
    });
    after(node, "onConfigure", (saved) => this.onConfigure(saved));
    after(node, "onConnectionsChange", () => this.onConnectionsChange());
    after(node, "onExecuted", this.refresh);
    after(node, "onAdded", () => {
      this.hold();
      editor.stage.watch();
      this.backdrop.watch();
      // Another image in a linked Load Image, another number in a linked width
      api.addEventListener("graphChanged", this.refresh);
      window.addEventListener("pointerup", this.followBoxes, true);
    });
    after(node, "onRemoved", () => {
      api.removeEventListener("graphChanged", this.refresh);
      window.removeEventListener("pointerup", this.followBoxes, true);
      editor.stage.unwatch();
      this.backdrop.unwatch();
    });
  }

  /** @param {any} saved */
  onConfigure(saved) {
    sortSockets(this.node);
    // Saved by a front end that couldn't load our files: only the copy is left.
    const values = Array.isArray(saved.widgets_values) ? saved.widgets_values : [];
    const copy = saved.properties?.[LAYOUT_PROPERTY];
    if (copy && !values.some((/** @type {any} */ value) => value?.subjects))
      this.editor.value = copy;
    requestAnimationFrame(this.refresh);
  }

  /** @param {number} waits how often to wait for the host to move later references up */
  onConnectionsChange(waits = MAX_WAITS) {
    const loading = app.configuringGraph;
    if (this.node.graph) holdUndoStep();
    afterFrames(2, () => {
      if (!this.node.graph) return;
      if (!loading && waits > 0 && hasReferenceGap(this.node))
        return this.onConnectionsChange(waits - 1);
      if (loading) this.references.adopt();
      else this.references.follow(this.editor.subjects);
      this.refresh();
    });
  }

  followSizeWidgets() {
    const { node } = this;
    for (const widget of node.widgets ?? [])
      if (widget.name === "width" || widget.name === "height")
        after(widget, "callback", () => {
          this.refresh();
          // The canvas keeps its width, so that its height follows the aspect, up or down.
          node.setSize([node.size[0], node.computeSize()[1]]);
        });
  }
}
