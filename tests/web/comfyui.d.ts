// What the host's front end gives to extensions, as far as web/js uses it and its own types lack it.

declare module "*/scripts/api.js" {
  export const api: import("@comfyorg/comfyui-frontend-types").ComfyApi;
}

declare module "*/scripts/app.js" {
  export const app: import("@comfyorg/comfyui-frontend-types").ComfyApp;
}

type HostNode = import("../../web/js/node/links.mjs").HostNode;

declare const LiteGraph: {
  LGraphNode: { prototype: HostNode };
  createNode(type: string): HostNode | null;
  isValidConnection(output: string | number, input: string | number): boolean;
};

interface DOMWidgetNode extends HostNode {
  addDOMWidget<T extends HTMLElement, V extends object>(
    name: string,
    type: string,
    element: T,
    options: import("@comfyorg/comfyui-frontend-types").DOMWidgetOptions<V>,
  ): import("@comfyorg/comfyui-frontend-types").DOMWidget<T, V> & {
    options: { hideInPanel?: boolean };
  };
}
