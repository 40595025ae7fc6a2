// Variants of one edit side by side: the same asked of the same picture, with other seeds.
import { call, picture } from "./api.js";
import { $, make } from "./dom.js";
import { report } from "./shell.js";

/** Shows variants; calls choose(node) for the one to go on from. */
export class Variants {
  constructor(list, choose) {
    Object.assign(this, { list, choose, told: "" });
  }

  hide() {
    this.list.hidden = true;
    this.list.replaceChildren();
    this.told = "";
  }

  /** Show these nodes, and how far each is; keeps the focus where it was. */
  show(nodes) {
    this.list.hidden = false;
    const known = new Map([...this.list.children].map((item) => [item.dataset.id, item]));
    const items = nodes.map((node) => {
      const before = known.get(node.id);
      const told = `${node.state} ${node.usable}`;
      const item = before?.dataset.told === told ? before : this.item(node, told);
      const bar = item.querySelector("progress");
      if (bar && node.state === "running") bar.value = node.edit.progress ?? 0;
      return item;
    });
    const focused = this.list.contains(document.activeElement) ? document.activeElement.closest("li").dataset.id : null;
    if (items.length !== this.list.children.length || items.some((item, index) => item !== this.list.children[index])) {
      this.list.replaceChildren(...items);
    }
    if (focused) this.list.querySelector(`[data-id="${CSS.escape(focused)}"] button`)?.focus();
  }

  item(node, told) {
    const seed = node.edit.result?.seed ?? node.edit.options.seed;
    const name = seed === undefined ? "Variant" : `Seed ${seed}`;
    const place = make("div", { class: "variant" });
    const item = make("li", { data: { id: node.id, told } }, place);
    if (node.usable) {
      const pick = make("button", { type: "button", class: "primary", "aria-label": `Go on from this: ${name}`, onclick: () => this.choose(node) }, "Go on from this");
      item.append(make("span", { class: "muted hint" }, name), pick);
      picture(node.id, "output").then((found) => found && place.append(make("img", { src: found.url, alt: `${node.title}, ${name.toLowerCase()}` })));
    } else if (node.unfinished) {
      place.append(make("progress", { max: 1, "aria-label": `Progress: ${name}` }));
      item.append(make("span", { class: "muted hint" }, node.words.replace(/,.*/, "")), make("button", { type: "button", onclick: () => cancel(node) }, "Cancel"));
    } else {
      place.append(make("p", { class: "unseen" }, node.refused ? "Refused" : node.words));
      item.append(make("span", { class: "muted hint" }, name), make("button", { type: "button", onclick: () => this.choose(node) }, "See why"));
    }
    return item;
  }
}

async function cancel(node) {
  try {
    await call("POST", `/v1/cancel?id=${encodeURIComponent(node.id)}`);
  } catch (problem) {
    report(problem);
  }
}
