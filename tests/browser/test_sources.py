"""The editor shows the references and the size that the run will have, however they are linked."""

from typing import Any

import pytest
from playwright.sync_api import expect
from ui import BOXES, TWO, Ui, of_type, subject, workflow

# Nodes that only the front end knows: what goes into a Set node comes out of Get nodes of its name.
SET_AND_GET = """
    for (const [kind, socket] of [['TestSet', 'addInput'], ['TestGet', 'addOutput']]) {
        if (LiteGraph.registered_node_types[kind]) continue;
        LiteGraph.registerNodeType(kind, class extends LiteGraph.LGraphNode {
            constructor(title) {
                super(title ?? kind);
                this.isVirtualNode = true;
                this[socket]('*', '*');
            }
            getInputLink(slot) {
                if (kind === 'TestSet') return super.getInputLink(slot);
                return this.graph.nodes.find((n) => n.type === 'TestSet')?.getInputLink(slot);
            }
        });
    }
"""
TOOLS = """
    const graph = app.canvas.graph;
    const frames = async (n) => { while (n--) await new Promise(requestAnimationFrame); };
    const add = (type) => {
        const created = LiteGraph.createNode(type);
        created.pos = [-600, 900];
        graph.add(created);
        return created;
    };
    const slot = (name) => node.inputs.findIndex((input) => input.name === name);
    const loader = (n) => graph.nodes.find((one) => one.title.startsWith(`Reference ${n}`));
"""


def script(ui: Ui, text: str, *given: Any) -> Any:
    return ui.node(SET_AND_GET + TOOLS + text, *given)


def prompt_of(ui: Ui) -> dict[str, Any]:
    return ui.page.evaluate("async () => (await app.graphToPrompt()).output")


def aspect(ui: Ui, expected: str) -> bool:
    return expected in ui.element(".msd-stage").get_attribute("style")


def shown(ui: Ui, index: int) -> str:
    """The source of a row's thumbnail, "" where it has none."""
    thumb = ui.element(".msd-thumb").nth(index)
    return "" if thumb.get_attribute("data-missing") == "true" else thumb.get_attribute("src") or ""


# Ways to link the output `source` to the layout's input `name`, a number or an image.
WAYS = {
    "a reroute node": """const way = add('Reroute');
        source.connect(0, way, 0);
        way.connect(0, node, slot(name));""",
    "two reroute nodes": """const [one, two] = [add('Reroute'), add('Reroute')];
        source.connect(0, one, 0);
        one.connect(0, two, 0);
        two.connect(0, node, slot(name));""",
    "a reroute on the link": """source.connect(0, node, slot(name));
        graph.createReroute([-300, 300], node.getInputLink(slot(name)));""",
    "Set and Get": """const [set, get] = [add('TestSet'), add('TestGet')];
        source.connect(0, set, 0);
        get.connect(0, node, slot(name));""",
    "a bypassed node": """const way = add(isImage ? 'ImageInvert' : 'PrimitiveInt');
        source.connect(0, way, 0);
        way.connect(0, node, slot(name));
        way.mode = 4;""",
    "a subgraph": """const way = add('Reroute');
        source.connect(0, way, 0);
        way.connect(0, node, slot(name));
        await frames(3);
        graph.convertToSubgraph(new Set([way, source]));""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_reference_on_its_way(ui: Ui, way: str) -> None:
    ui.until(lambda: "reference_1.png" in shown(ui, 0))
    script(
        ui,
        f"""const [source, name, isImage] = [loader(2), 'references.reference_1', true];
        node.disconnectInput(slot('references.reference_2'));
        await frames(5);
        {WAYS[way]}
        await frames(5);""",
    )
    ui.still()
    ui.capture()
    inputs = of_type(prompt_of(ui), "MSDLayout")
    if way == "a subgraph" and "references.reference_1" not in inputs:
        # 1.47 moves growing sockets up while it converts, and loses the link: so it is shown.
        ui.until(lambda: not shown(ui, 0))
        return
    ui.until(lambda: "reference_2.png" in shown(ui, 0))
    origin, _ = inputs["references.reference_1"]
    assert prompt_of(ui)[origin]["inputs"]["image"] == "reference_2.png"


@pytest.mark.parametrize("way", WAYS)
def test_a_width_on_its_way(ui: Ui, way: str) -> None:
    script(
        ui,
        f"""const [source, name, isImage] = [add('PrimitiveInt'), 'width', false];
        source.widgets[0].value = 256;
        await frames(3);
        {WAYS[way]}
        await frames(5);""",
    )
    ui.capture()
    ui.until(lambda: aspect(ui, "256 / 128"))
    prompt = prompt_of(ui)
    origin, _ = of_type(prompt, "MSDLayout")["width"]
    assert prompt[origin]["inputs"]["value"] == 256


def test_muted_and_bypassed_sources_do_not_count(ui: Ui) -> None:
    """As in the prompt: a muted source, and a bypassed one that has nothing to pass on."""
    for mode in (2, 4):
        ui.until(lambda: "reference_1.png" in shown(ui, 0))
        script(ui, "loader(1).mode = given[0]; await frames(2);", mode)
        ui.capture()
        ui.until(lambda: not shown(ui, 0))
        assert "Subject 1 has no reference: a run leaves it out." in ui.note()
        assert "references.reference_1" not in of_type(prompt_of(ui), "MSDLayout")
        assert ui.subjects == TWO
        row = ui.element(".msd-row").nth(0)
        assert row.get_attribute("data-off") == "true"
        assert row.locator(".msd-place").inner_text() == "no reference"
        if mode == 2:
            ui.shot("a muted reference")
            _, outputs = ui.run()
            assert any("images" in output for output in outputs.values())
        script(ui, "loader(1).mode = 0; await frames(2);")
        ui.capture()
    ui.until(lambda: "reference_1.png" in shown(ui, 0))
    script(
        ui,
        """const text = add('PrimitiveStringMultiline');
        text.connect(0, node, slot('boxes'));
        text.mode = 2;
        await frames(3);""",
    )
    ui.capture()
    # The layout's own boxes run, and are edited.
    ui.until(lambda: "Box 1 belongs to reference_1" in ui.note())
    assert "boxes" not in of_type(prompt_of(ui), "MSDLayout")
    script(
        ui,
        """const number = add('PrimitiveInt');
        number.widgets[0].value = 256;
        number.connect(0, node, slot('width'));
        number.mode = 2;
        await frames(3);""",
    )
    ui.capture()
    ui.until(lambda: aspect(ui, "128 / 128"))
    assert of_type(prompt_of(ui), "MSDLayout")["width"] == 128


def test_the_size_of_the_last_run(ui: Ui) -> None:
    """Where a node computes it; also after undo has created the editor again."""
    script(
        ui,
        """const [empty, size] = [add('EmptyImage'), add('GetImageSize')];
        empty.widgets[0].value = 192;
        empty.widgets[1].value = 96;
        empty.connect(0, size, 0);
        size.connect(0, node, slot('width'));
        size.connect(1, node, slot('height'));
        await frames(3);""",
    )
    ui.still()
    ui.capture()
    assert aspect(ui, "128 / 128")
    ui.run()
    ui.until(lambda: aspect(ui, "192 / 96"))
    ui.shot("the size of the run")
    ui.drag((0.25, 0.5), (0.3, 0.6))
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    ui.until(lambda: aspect(ui, "192 / 96"))


def test_a_subgraph_in_two_nodes(ui: Ui) -> None:
    """The editor in it shows what all of them have, and what differs only after a run."""
    script(
        ui,
        """const number = add('PrimitiveInt');
        number.widgets[0].value = 256;
        const { node: outer, subgraph } = graph.convertToSubgraph(new Set([node]));
        await frames(3);
        // Not before: 1.58 converts a link into width to one into height, beside growing sockets.
        const inner = subgraph.nodes.find((one) => one.type === 'MSDLayout');
        const socket = inner.inputs.find((input) => input.name === 'width');
        subgraph.addInput('width', 'INT').connect(socket, inner);
        const outside = (one) => one.inputs.findIndex((input) => input.name === 'width');
        number.connect(0, outer, outside(outer));
        await frames(3);
        const other = LiteGraph.createNode(outer.type);
        graph.add(other);
        await frames(3);
        window.outer = [outer, other];
        const links = outer.inputs.map((_, i) =>
            LiteGraph.LGraphNode.prototype.getInputLink.call(outer, i));
        links.forEach((link, i) =>
            link && graph.getNodeById(link.origin_id).connect(link.origin_slot, other, i));
        await frames(3);
        app.canvas.openSubgraph(outer.subgraph);""",
    )
    ui.capture()
    ui.until(lambda: ui.page.evaluate("() => app.canvas.graph !== app.rootGraph"))
    ui.show()
    ui.until(lambda: aspect(ui, "256 / 128"))
    ui.until(lambda: "reference_1.png" in shown(ui, 0))
    ui.page.evaluate(
        """() => {
            const [, second] = outer;
            const width = second.inputs.findIndex((input) => input.name === 'width');
            const number = LiteGraph.createNode('PrimitiveInt');
            app.rootGraph.add(number);
            number.widgets[0].value = 64;
            number.connect(0, second, width);
        }"""
    )
    ui.capture()
    ui.until(lambda: aspect(ui, "128 / 128"))


def test_growing_sockets_are_in_order_after_loading(ui: Ui) -> None:
    """From four references on the host mixes them with the others; links keep their sockets."""
    subjects = [subject(f"s{i}", BOXES[i % 2]) for i in range(12)]
    ui.load(workflow(subjects=subjects, size=[400, 1200]))
    linked = script(
        ui,
        """for (let i = 3; i <= 12; i++) {
            const load = add('LoadImage');
            load.connect(0, node, slot(`references.reference_${i}`));
            await frames(4);
            for (const group of ['regions.region', 'reference_masks.reference_mask']) {
                if (i > 7) continue;
                load.connect(1, node, slot(`${group}_${i - 2}`));
                await frames(4);
            }
        }
        return node.inputs.map(({ name }, i) => [name, node.getInputLink(i)?.origin_id ?? null])
            .filter(([, id]) => id !== null);""",
    )
    assert len(linked) == 22
    ui.still()
    prompt = of_type(prompt_of(ui), "MSDLayout")
    for _ in range(2):
        saved = ui.saved()
        ui.load(saved)
        ui.still()
        sockets = ui.node(
            """return node.inputs.map(({ name }, i) => {
                const link = node.getInputLink(i);
                return [name, link?.origin_id ?? null, link ? link.target_slot === i : true];
            });"""
        )
        names = [name for name, _, _ in sockets]
        order = ["references", "reference_masks", "regions", "boxes", "width", "height"]
        ranks = [
            (order.index(name.split(".")[0]), int(name.rpartition("_")[2]) if "_" in name else 0)
            for name in names
        ]
        assert ranks == sorted(ranks), names
        assert [[name, link] for name, link, _ in sockets if link is not None] == linked
        assert all(sound for _, _, sound in sockets)
        assert of_type(prompt_of(ui), "MSDLayout") == prompt
    ui.shot("twelve references, loaded")


def test_a_phrase_that_the_prompt_does_not_have_is_marked(ui: Ui) -> None:
    """Where the prompt can be followed; where only a run knows it, nothing is marked."""
    marked = ui.element(".msd-phrase[data-absent=true]")
    ui.load(workflow(subjects=[subject("Cat", BOXES[0]), subject("red heart", BOXES[1])]))
    ui.frames()
    expect(marked).to_have_count(0)  # they stand for {subjects}
    replace = """const replace = graph.nodes.find((one) => one.type === 'StringReplace');
        replace.widgets[0].value = 'a cat on grass';"""
    script(ui, replace)
    ui.capture()
    expect(marked).to_have_count(1)
    assert marked.input_value() == "red heart"
    assert "positive prompt" in (marked.get_attribute("title") or "")
    ui.shot("a phrase that the prompt doesn't have")
    script(
        ui,
        """const prompt = graph.nodes.find((one) => one.title === 'Positive prompt');
        prompt.disconnectInput(prompt.inputs.findIndex((input) => input.name === 'text'));
        prompt.widgets[0].value = 'a cat and a red  heart';""",
    )
    ui.capture()
    expect(marked).to_have_count(0)
    ui.phrase(1).fill("blue cup")
    expect(marked).to_have_count(1)
    script(
        ui,
        """const prompt = graph.nodes.find((one) => one.title === 'Positive prompt');
        const text = add('PrimitiveStringMultiline');
        text.widgets[0].value = 'a cat and a blue cup';
        text.connect(0, prompt, prompt.inputs.findIndex((input) => input.name === 'text'));
        await frames(3);""",
    )
    ui.capture()
    expect(marked).to_have_count(0)
    script(
        ui,
        """const prompt = graph.nodes.find((one) => one.title === 'Positive prompt');
        const [first, second] = [add('StringReplace'), add('StringReplace')];
        const connect = (from, to, name) =>
            from.connect(0, to, to.inputs.findIndex((input) => input.name === name));
        for (const name of ['string', 'find', 'replace']) {
            connect(first, second, name);
            connect(second, first, name);
        }
        connect(first, prompt, 'text');
        await frames(3);""",
    )
    ui.phrase(1).fill("anything")
    ui.frames()
    expect(marked).to_have_count(0)
