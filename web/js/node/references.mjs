// The node's references: what the editor shows of each, and which subject each belongs to.

import { followReferences } from "../layout/arranging.mjs";
import { MAX_SUBJECTS } from "../layout/value.mjs";
import { nextFrame } from "./frames.mjs";
import { pictureAddress, ReferenceImages } from "./images.mjs";
import { linkOf, slotOf } from "./links.mjs";
import { addLoader, isOpenLoader, setFile } from "./load_image.mjs";
import { invertMask, maskOrigin } from "./mask_nodes.mjs";
import { COPY, fileMask, readMask } from "./region_masks.mjs";
import {
  connectSubject,
  disconnectSubject,
  keepLinks,
  maskSocket,
  otherLinks,
  referenceLinks,
  referenceSocket,
  regionSocket,
  reorderSockets,
  subjectLinks,
} from "./sockets.mjs";
import { sourceOf, upstream } from "./sources.mjs";
import { holdUndoStep } from "./undo_steps.mjs";

const MAX_WAITS = 60; // frames, for the host to add a socket

export class References {
  /**
   * @param {import("./links.mjs").HostNode} node
   * @param {import("./last_run.mjs").LastRun} lastRun
   * @param {() => void} onLoad an image has loaded
   */
  constructor(node, lastRun, onLoad) {
    this.node = node;
    this.lastRun = lastRun;
    this.images = new ReferenceImages(onLoad);
    /** @type {(string | number)[]} the links of the references that the subjects belong to */
    this.links = [];
    this.others = otherLinks(node); // of their masks and regions
  }

  /**
   * @param {number} index
   * @returns {import("../layout/host.mjs").Reference}
   */
  get(index) {
    const source = sourceOf(this.node, referenceSocket(index));
    const thumbnail = this.lastRun.get()?.references[index];
    const address = source === null ? null : pictureAddress(source?.node, thumbnail);
    const region = sourceOf(this.node, regionSocket(index));
    return {
      linked: source !== null,
      image: address ? this.images.get(address) : null,
      region: region !== null,
      inverted: this.isInverted(index),
      mask: region === null ? null : this.mask(region, index),
    };
  }

  /** Whether the last run found a mask inverted that can be turned. @param {number} index */
  isInverted(index) {
    const found = this.lastRun.get()?.inverted.includes(index + 1) ?? false;
    return found && maskOrigin(this.node, index) !== null;
  }

  /** @param {number} index */
  invert(index) {
    invertMask(this.node, index);
    this.lastRun.dropInverted(index + 1);
  }

  /**
   * The mask on a region socket, as far as the page can know it.
   * @param {import("./sources.mjs").Source} region
   * @param {number} index
   */
  mask(region, index) {
    const copy = this.lastRun.get()?.regions[index];
    const mask = fileMask(region) ?? COPY;
    const address = pictureAddress(mask.loader ?? undefined, copy);
    const image = address ? this.images.get(address) : null;
    return image && readMask(image, mask);
  }

  /**
   * Let a subject have a file as its reference: its own Load Image loads it, or else a new one. A mask
   * of the earlier picture is disconnected: it would cut a wrong shape out of this one.
   * @param {number} index
   * @param {string} name of the file on the server
   * @returns {Promise<boolean>} whether there was such a mask
   */
  async give(index, name) {
    const { node } = this;
    const socket = referenceSocket(index);
    const sources = Array.from({ length: MAX_SUBJECTS }, (_, i) =>
      sourceOf(node, referenceSocket(i)),
    );
    const own = sources[index]?.node;
    holdUndoStep();
    if (own && isOpenLoader(own) && sources.every((one, i) => i === index || one?.node !== own)) {
      setFile(own, name);
      const mask = sourceOf(node, maskSocket(index))?.node;
      const isOfIt = mask && (mask === own || upstream(mask, () => true).has(own));
      return !isOfIt && this.dropMask(index);
    }
    for (let waits = 0; slotOf(node, socket) < 0 && waits < MAX_WAITS; waits++) {
      await nextFrame(); // the host adds the next socket
      holdUndoStep();
    }
    const slot = slotOf(node, socket);
    if (slot >= 0) addLoader(node, name)?.connect(0, node, slot);
    return sources[index] !== null && this.dropMask(index);
  }

  /** @param {number} index */
  dropMask(index) {
    if (!linkOf(this.node, maskSocket(index))) return false;
    this.node.disconnectInput(slotOf(this.node, maskSocket(index)));
    return true;
  }

  /** The subjects were loaded together with the links. */
  adopt() {
    this.links = referenceLinks(this.node);
    this.others = otherLinks(this.node);
  }

  /**
   * The host moves later references up when one is disconnected; the subjects go with them, and their
   * masks and regions with the subjects.
   * @param {import("../layout/subjects.mjs").Subjects} subjects
   */
  follow(subjects) {
    const links = referenceLinks(this.node);
    let order = null;
    if (links.every((link) => this.links.includes(link))) {
      const remaining = links.map((link) => this.links.indexOf(link));
      order = followReferences(subjects, remaining, this.links.length);
      if (order) this.lastRun.forget();
    }
    keepLinks(this.node, this.others, order);
    this.adopt();
    subjects.addUpTo(links.length);
  }

  /**
   * Sort the links as the subjects are.
   * @param {number[]} order earlier indices of the subjects
   */
  reorder(order) {
    reorderSockets(this.node, order);
    this.adopt();
    this.lastRun.forget();
  }

  /**
   * What a subject's links come from, for `connect` in any layout of the same graph.
   * @param {number} index
   * @returns {import("../layout/host.mjs").Wires}
   */
  wires(index) {
    return { graph: String(this.node.graph?.id), links: subjectLinks(this.node, index) };
  }

  /**
   * Whether there is a reference to connect.
   * @param {import("../layout/host.mjs").Wires} wires
   */
  canConnect({ graph, links: [reference] }) {
    const here = this.node.graph;
    if (!here || !reference || String(here.id) !== graph) return false;
    return reference.originIsIoNode || Boolean(here.getNodeById(reference.origin_id));
  }

  /**
   * Connect a subject with what another one is connected with.
   * @param {number} index
   * @param {import("../layout/host.mjs").Wires} wires
   */
  connect(index, { links }) {
    connectSubject(this.node, index, links);
    this.lastRun.forget();
  }

  /**
   * Disconnect all that belongs to a subject that was removed.
   * @param {number} index
   */
  remove(index) {
    this.lastRun.forget();
    disconnectSubject(this.node, index);
    this.adopt();
  }
}
