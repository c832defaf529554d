"""What the tests do in the page."""

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, expect

from lab.host.server import Server
from lab.host.workflows import FILES

LIMIT = 120  # seconds; only so that a test that waits in vain ends
expect.set_options(timeout=LIMIT * 1000)

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "browser_output"  # a screenshot of each state
# Older front ends have no isGraphReady, and open no workflow by themselves.
READY = """() => window.LiteGraph?.registered_node_types?.MSDLayout
    && (window.app?.isGraphReady ?? window.app?.canvas)"""
# The visible canvas of the open graph's editor, in pixels of the screen, once it stands still.
FRAME = """async () => {
    const read = () => {
        const shown = [...document.querySelectorAll('.msd-stage canvas')].filter(
            (e) => e.offsetParent && e.getBoundingClientRect().width > 0);
        if (shown.length !== 1) return null;
        const rect = shown[0].getBoundingClientRect();
        const middle = [rect.x + rect.width / 2, rect.y + rect.height / 2];
        const top = document.elementFromPoint(...middle) === shown[0];
        return { x: rect.x, y: rect.y, width: rect.width, height: rect.height,
                 inner: [shown[0].clientWidth, shown[0].clientHeight], top };
    };
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const first = read();
    for (let i = 0; i < 3; i++) {
        await frame();
        if (!first || JSON.stringify(read()) !== JSON.stringify(first)) return null;
    }
    return first.top ? first : null;
}"""
# Waits until neither the graph nor its undo history has changed for some frames: the host moves
# links and grows nodes some frames later.
STILL = """async () => {
    const frame = () => new Promise(requestAnimationFrame);
    const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker;
    const read = () => JSON.stringify(
        [app.rootGraph.serialize(), tracker?.undoQueue.length, tracker?.changeCount]);
    for (let [last, same] = [read(), 0]; same < 15; ) {
        await frame();
        const now = read();
        same = now === last ? same + 1 : 0;
        last = now;
    }
}"""
# The host loads the whole graph to undo or redo a step; this says when it has.
RESTORED = """() => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
    window.restored = false;
    tracker.updateState = async (...queues) => {
        delete tracker.updateState; // back to the class's
        await tracker.updateState(...queues);
        window.restored = true;
    };
}"""
# The layouts as the host's history has them, and as they are, but for the size, which the host
# measures. Where they differ, the host's next look makes another step, and nothing is left to redo.
LAYOUTS = """() => {
    const layouts = (graph) => graph.nodes.filter((node) => node.type === 'MSDLayout').concat(
        (graph.definitions?.subgraphs ?? []).flatMap(layouts));
    const { activeState } = app.extensionManager.workflow.activeWorkflow.changeTracker;
    return [activeState, app.rootGraph.serialize()].map(
        (graph) => layouts(graph).map(({ size, ...node }) => JSON.parse(JSON.stringify(node))));
}"""
SETTING = "async ([id, value]) => { await app.extensionManager.setting.set(id, value) }"
LAYOUT = """() => app.canvas.graph.nodes.find((n) => n.type === 'MSDLayout')"""
# 1.58 throws by itself when a node with growing sockets is removed while they are linked.
HOST_FAULTS = ("autogrowInputDisconnected",)
BOXES = ([0.05, 0.25, 0.45, 0.75], [0.55, 0.25, 0.95, 0.75])


def workflow(name: str = "MS-Diffusion, two subjects", **layout: Any) -> dict[str, Any]:
    """An example workflow with the micro family's files, of 128 pixels and few steps.

    Args:
        layout: the subjects of MSD Layout by `subjects`, `width` and `height` in pixels.
    """
    text = (ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")
    for theirs, ours in FILES.items():
        text = text.replace(f'"{theirs}"', f'"{ours}"')
    saved = json.loads(text)
    width, height = layout.get("width", 128), layout.get("height", 128)
    for node in saved["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "MSDLayout":
            subjects = layout.get("subjects", values[2]["subjects"])
            value = {"version": 1, "subjects": subjects}
            node["widgets_values"] = [width, height, value]
            node["properties"]["msd_layout"] = value
            node["size"] = layout.get("size", [400, 825])  # by default more than it needs
        elif node["type"] == "EmptyLatentImage":
            values[:2] = [width, height]
        elif node["type"] == "KSampler":
            values[2] = 2  # steps
        elif node["type"] == "LoadImage" and (title := node.get("title", "")).startswith("Ref"):
            values[0] = f"reference_{title.split()[1].rstrip(',')}.png"
    saved["extra"]["ds"] = {"scale": 1, "offset": [0, 0]}
    return saved


def subject(phrase: str = "star", box: Sequence[float] | None = None, weight: float = 1.0) -> Any:
    return {"phrase": phrase, "box": None if box is None else list(box), "weight": weight}


TWO = [subject("star", BOXES[0]), subject("heart", BOXES[1])]


class Ui:
    """A page of ComfyUI's front end, in one of its two renderings."""

    def __init__(
        self,
        browser: Browser,
        server: Server,
        front_end: str,
        mode: str,
        javascript: bool = True,
        pixels: float = 1,
    ) -> None:
        """pixels: of the device, for one of the page."""
        self.server, self.front_end, self.mode = server, front_end, mode
        self.context = browser.new_context(
            viewport={"width": 1400, "height": 950}, device_scale_factor=pixels
        )
        self.context.set_default_timeout(LIMIT * 1000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", self._note_error)
        self.page.on("console", self._note)
        self.deprecations: set[str] = set()
        if not javascript:  # ours: it can't be loaded
            self.page.route("**/extensions/ms_diffusion/js/**", lambda route: route.abort())
        self.address = f"http://127.0.0.1:{server.port}"
        self.open()

    def _note_error(self, error: Error) -> None:
        stack = error.stack or ""
        if not any(fault in stack for fault in HOST_FAULTS):
            self.errors.append(f"{error}\n{stack}")

    def _note(self, message: ConsoleMessage) -> None:
        """Keep errors and warnings that name our files, and the host's words of deprecation."""
        where = f"{message.text} {message.location}"
        if "deprecat" in message.text.lower():
            self.deprecations.add(message.text)
        if message.type in ("error", "warning") and "/ms_diffusion/" in where:
            self.errors.append(where)

    def open(self) -> None:
        self.page.goto(self.address, wait_until="domcontentloaded")
        self.page.wait_for_function(READY)
        self.set_mode(self.mode)

    def close(self) -> None:
        self.context.close()

    def set_mode(self, mode: str) -> None:
        self.page.evaluate(SETTING, ["Comfy.VueNodes.Enabled", mode == "nodes2"])

    def reset(self) -> None:
        """Forget what earlier tests did, and load the example workflow with two boxes."""
        self.errors.clear()
        self.set_mode(self.mode)
        self.leave_subgraph()
        self.load(workflow(subjects=TWO))
        lasso = self.element("[aria-pressed=true]", has_text="Lasso")
        if lasso.count():  # it holds for the whole page
            lasso.click()

    def leave_subgraph(self) -> None:
        """Show the root graph; a workflow that is loaded inside a subgraph gets lost."""
        if self.page.evaluate("() => app.canvas.graph !== app.rootGraph"):
            inside = self.page.evaluate("() => app.canvas.graph.id")
            self.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
            # The host follows by the page's address.
            self.until(lambda: inside not in self.page.evaluate("() => location.hash"))

    def load(self, saved: dict[str, Any], scale: float = 1.0) -> None:
        """Load a workflow, and bring its layout to the middle of the window."""
        self.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
        self.show(scale)

    def saved(self) -> dict[str, Any]:
        """The workflow as a file would have it."""
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.rootGraph.serialize()))")

    def show(self, scale: float = 1.0) -> None:
        """Bring the canvas of the open graph's layout to the middle of the window."""
        self.node(
            """const { ds } = app.canvas, frame = () => new Promise(requestAnimationFrame);
            ds.scale = given[0];
            ds.offset[0] = 420 / ds.scale - node.pos[0];
            ds.offset[1] = 120 / ds.scale - node.pos[1];
            app.canvas.setDirty(true, true);
            for (let i = 0; i < 5; i++) await frame();
            if (ds.scale <= 1) return;
            const canvas = node.widgets.at(-1).element.querySelector('canvas');
            const { x, y, width, height } = canvas.getBoundingClientRect();
            ds.offset[0] += (700 - x - width / 2) / ds.scale;
            ds.offset[1] += (520 - y - height / 2) / ds.scale;
            app.canvas.setDirty(true, true);""",
            scale,
        )

    def node(self, script: str, *given: Any) -> Any:
        """Evaluate a script with the open graph's layout as `node` and arguments as `given`."""
        return self.page.evaluate(
            f"async given => {{ const node = ({LAYOUT})(); {script} }}", list(given)
        )

    @property
    def value(self) -> dict[str, Any]:
        return self.node("return node.widgets.find((w) => w.name === 'layout').value")

    @property
    def subjects(self) -> list[dict[str, Any]]:
        return self.value["subjects"]

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.03)

    def frames(self, count: int = 10) -> None:
        """Let the page paint some frames."""
        self.page.evaluate(
            "async n => { while (n--) await new Promise(requestAnimationFrame); }", count
        )

    def still(self) -> None:
        """Wait until nothing in the graph changes any more."""
        self.page.evaluate(STILL)

    def frame(self) -> tuple[float, float, float, float]:
        """Where the picture lies on the screen: left, top, width, height."""
        read: list[Any] = [None]

        def stands_still() -> bool:
            read[0] = self.page.evaluate(FRAME)
            return read[0] is not None

        self.until(stands_still)
        rect, (inner_width, inner_height) = read[0], read[0]["inner"]
        width, height = self.size()
        scale = min((inner_width - 2) / width, (inner_height - 2) / height)
        zoom = rect["width"] / inner_width
        w, h = width * scale * zoom, height * scale * zoom
        return rect["x"] + (rect["width"] - w) / 2, rect["y"] + (rect["height"] - h) / 2, w, h

    def size(self) -> tuple[int, int]:
        values = self.node("return node.widgets.slice(0, 2).map((w) => w.value)")
        return values[0], values[1]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture on the screen, on a whole pixel as a mouse is."""
        return self.points((x, y))[0]

    def points(self, *points: Sequence[float]) -> list[tuple[float, float]]:
        """Points of the picture on the screen."""
        left, top, width, height = self.frame()
        return [(round(left + x * width), round(top + y * height)) for x, y in points]

    def drag(self, start: Sequence[float], end: Sequence[float], keys: Sequence[str] = ()) -> None:
        """Press at one point of the picture and release at another."""
        mouse, ((x0, y0), (x1, y1)) = self.page.mouse, self.points(start, end)
        for key in keys:
            self.page.keyboard.down(key)
        mouse.move(x0, y0)
        mouse.down()
        mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=3)
        mouse.move(x1, y1, steps=3)
        mouse.up()
        for key in keys:
            self.page.keyboard.up(key)

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **options)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def undo(self) -> None:
        """Undo a step by its key, to the end; the layout then is as the host's history has it."""
        self._restore("Control+z")

    def redo(self) -> None:
        """Redo a step, as `undo`."""
        self._restore("Control+y")

    def _restore(self, key: str) -> None:
        self.page.evaluate(RESTORED)
        self.press(key)
        self.page.wait_for_function("() => window.restored")
        self.still()
        kept, now = self.page.evaluate(LAYOUTS)
        assert now == kept, f"{kept}\n{now}"

    def element(self, selector: str, **options: Any) -> Locator:
        return self.page.locator(f".msd-layout {selector}", **options).locator("visible=true")

    def phrase(self, index: int) -> Locator:
        return self.element(".msd-phrase").nth(index)

    def note(self) -> str:
        return self.element(".msd-note").inner_text()

    def run(self, start: Callable[[], None] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run and wait for the end; the prompt that was posted, and the outputs.

        Args:
            start: what begins it; by default a click on Run.
        """
        self.page.evaluate(
            """() => {
                window.ended = [];
                for (const name of ['execution_success', 'execution_error'])
                    comfyAPI.api.api.addEventListener(
                        name, (event) => ended.push([name, event.detail]), { once: true });
            }"""
        )
        button = self.page.get_by_role("button", name="Run", exact=True).first
        with self.page.expect_response(lambda r: r.url.endswith("/api/prompt")) as posted:
            (start or button.click)()
        answer = posted.value
        assert answer.ok, answer.text()
        prompt_id = answer.json()["prompt_id"]
        self.page.wait_for_function("() => ended.length")
        ((name, detail),) = self.page.evaluate("() => ended.slice(0, 1)")
        assert name == "execution_success", detail
        self.until(lambda: prompt_id in self.server.get_json(f"/history/{prompt_id}"))
        outputs = self.server.get_json(f"/history/{prompt_id}")[prompt_id]["outputs"]
        return answer.request.post_data_json["prompt"], outputs

    def capture(self) -> None:
        """End the undo step that a script began, as a click of a user does."""
        self.page.evaluate(
            """() => {
                const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
                (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
            }"""
        )

    def shot(self, name: str) -> None:
        """Write a screenshot of the state."""
        SHOTS.mkdir(exist_ok=True)
        self.frames()
        self.page.screenshot(path=SHOTS / f"{name} ({self.front_end}, {self.mode}).png")


def near(box: Sequence[float], expected: Sequence[float], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(box, expected, strict=True))


def of_type(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    """The inputs of a prompt's node of this class."""
    return copy.deepcopy(next(n["inputs"] for n in prompt.values() if n["class_type"] == kind))
