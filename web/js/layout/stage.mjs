// The canvas of the layout editor: how large it is, and which point of the picture an event is at.

import { element } from "./elements.mjs";
import { fit } from "./geometry.mjs";

// How near an edge is grabbed, in pixels of the canvas
const REACH = 8;
const TOUCH_REACH = 18;

export class Stage {
  /**
   * @param {Pick<import("./host.mjs").Host, "size" | "text">} host
   * @param {() => void} paint
   */
  constructor({ size, text }, paint) {
    this.size = size;
    this.paint = paint;
    this.canvas = element("canvas", {
      tabIndex: 0,
      role: "application",
      "aria-label": text("canvas"),
      "aria-roledescription": text("canvasRole"),
    });
    this.root = element("div", { className: "msd-stage" }, this.canvas);
    this.frameRequest = 0;
    this.observer = new ResizeObserver(() => this.draw());
  }

  /** Follow the size of the canvas, while the node is in a graph. */
  watch() {
    this.observer.observe(this.root);
  }

  unwatch() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frameRequest);
  }

  /** Paint in the next frame. */
  draw() {
    cancelAnimationFrame(this.frameRequest);
    this.frameRequest = requestAnimationFrame(this.paint);
  }

  refresh() {
    const [width, height] = this.size();
    this.root.style.setProperty("--msd-aspect", `${width} / ${height}`);
    this.draw();
  }

  focus() {
    this.canvas.focus({ preventScroll: true });
  }

  /** Where the picture is on the canvas, in pixels before any zoom. */
  frame() {
    return fit(this.size(), [this.root.clientWidth, this.root.clientHeight]);
  }

  /** Zoom of the graph: pixels of the screen for one of the canvas. */
  zoom() {
    return this.canvas.getBoundingClientRect().width / this.canvas.clientWidth || 1;
  }

  /**
   * Where a mouse or a finger is in the picture, and how near counts as a hit.
   * @param {MouseEvent} event
   * @returns {import("./geometry.mjs").Pointer}
   */
  pointer(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const [zoom, frame] = [this.zoom(), this.frame()];
    const touch = event instanceof PointerEvent && event.pointerType === "touch";
    const reach = touch ? TOUCH_REACH : REACH;
    return {
      x: ((event.clientX - left) / zoom - frame.x) / frame.w,
      y: ((event.clientY - top) / zoom - frame.y) / frame.h,
      reachX: reach / frame.w,
      reachY: reach / frame.h,
    };
  }
}
