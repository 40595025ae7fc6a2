// The history: pictures handed in and what was made of them, as a tree, and the list that shows it.
import { picture } from "./api.js";
import { make, when } from "./dom.js";

const UNFINISHED = ["queued", "running", "held"];
const MAX_COLUMN = 6;
const MAX_VARIANTS = 4; // side by side
const COLUMN_WIDTH = 18; // pixels, as in edit.css
const SMALL = { queued: "waiting", held: "waits for a person", cancelled: "cancelled", error: "failed" };

/** Why an edit was refused. */
export function refusal({ details }) {
  const said = (details.message ?? "").replace(/^refused: /, "");
  return `This was refused${said ? `: ${said}` : ""}. Nothing was made of it.`;
}

/** A picture that was handed in (no `edit`), or an edit. */
class Node {
  constructor(id, { edit = null, local = null, created }) {
    Object.assign(this, { id, edit, local, created, parent: null, children: [], siblings: [this] });
  }

  get state() {
    return this.edit?.details.state ?? "source";
  }

  get unfinished() {
    return UNFINISHED.includes(this.state);
  }

  get refused() {
    return this.state.endsWith("_moderated");
  }

  /** Whether there is a picture to edit further. */
  get usable() {
    return this.state === "source" || (this.state === "ready" && this.edit.result !== null);
  }

  get title() {
    return this.edit?.prompt ?? this.local?.name ?? "Picture";
  }

  /** How it stands, in a word or two. */
  get words() {
    if (this.state === "source") return "original";
    if (this.refused) return "refused";
    if (this.state === "running") return `working, ${Math.round(100 * (this.edit.progress ?? 0))}%`;
    return SMALL[this.state] ?? when(this.edit.created);
  }

  /** The edits that ask the same of the same picture, with other seeds; those that gave nothing are left out. */
  get variants() {
    if (!this.edit) return [];
    const asks = ({ edit }) => JSON.stringify([edit.prompt, { ...edit.options, seed: null }, edit.references, edit.has_mask]);
    const beside = this.siblings.filter((node) => (node === this || node.unfinished || node.usable) && asks(node) === asks(this));
    return beside.slice(-MAX_VARIANTS);
  }

  /** What stands here can be deleted: an edit that is at its end, or a picture whose edits are. */
  get deletable() {
    return !this.unfinished && (this.state !== "source" || this.descendants.every((node) => !node.unfinished));
  }

  get descendants() {
    return this.children.flatMap((child) => [child, ...child.descendants]);
  }

  /** The picture that stands here, as {blob, url}; null where there is none. */
  async picture() {
    if (this.local) return this.local;
    if (this.edit) return this.state === "ready" ? picture(this.edit.id, "output") : null;
    const shown = this.children.find((child) => !child.refused);
    return shown ? picture(shown.edit.id, "input") : null;
  }

  /** The picture that it was made from, where the edit that made that is no longer known. */
  get origin() {
    return this.edit?.parent_id ? { picture: () => picture(this.edit.id, "input") } : null;
  }

  /** What it was made from. */
  async before() {
    if (this.parent) return this.parent.picture();
    return this.edit?.parent_id ? picture(this.edit.id, "input") : null;
  }
}

/** All that is known of the visitor's edits. */
export class History {
  nodes = new Map();
  fromWords = []; // edits that began without a picture

  /** A picture that was just handed in. */
  add(local) {
    const node = new Node(`new-${this.nodes.size}-${Date.now()}`, { local, created: Date.now() / 1000 });
    this.nodes.set(node.id, node);
    return node;
  }

  /** Take in edits as the service tells them. `origin` is the picture that the only one among them was made from. */
  take(edits, origin = null) {
    for (const edit of [...edits].sort((a, b) => a.created - b.created)) {
      const known = this.nodes.get(edit.id);
      if (known) {
        known.edit = edit;
        continue;
      }
      const node = new Node(edit.id, { edit, created: edit.created });
      this.nodes.set(node.id, node);
      node.parent = edit.parent_id ? this.nodes.get(edit.parent_id) ?? null : this.source(edit, origin);
      if (node.parent) {
        node.parent.children.push(node);
        node.siblings = node.parent.children;
      } else if (!edit.parent_id) {
        node.siblings = this.fromWords;
        this.fromWords.push(node);
      }
    }
  }

  /** Forget a node; what was made of it stays, as the beginning of a tree of its own. */
  remove(node) {
    this.nodes.delete(node.id);
    this.fromWords = this.fromWords.filter((other) => other !== node);
    for (const other of this.fromWords) other.siblings = this.fromWords;
    for (const child of node.children) Object.assign(child, { parent: null, siblings: [child] });
    const { parent } = node;
    if (!parent) return;
    parent.children = parent.children.filter((other) => other !== node);
    for (const other of parent.children) other.siblings = parent.children;
    if (parent.state === "source" && !parent.local && parent.children.length === 0) this.remove(parent);
  }

  source(edit, origin) {
    if (!edit.source) return null;
    const id = `picture-${edit.source}`;
    if (!this.nodes.has(id)) {
      const node = origin?.state === "source" ? origin : new Node(id, { created: edit.created });
      this.nodes.delete(node.id);
      node.id = id;
      this.nodes.set(id, node);
    }
    return this.nodes.get(id);
  }

  /**
   * All nodes from top to bottom, with `level` from 1, `column`, which grows only where it branches, and
   * `rails`: the columns in which a line goes on to a later branch.
   */
  rows() {
    const latest = (node) => Math.max(node.created, ...node.children.map(latest));
    const roots = [...this.nodes.values()].filter((node) => !node.parent).sort((a, b) => latest(b) - latest(a));
    const rows = [];
    const walk = (node, level, column, place, of, rails) => {
      rows.push({ node, level, column, place, of, rails });
      const { children } = node;
      const beside = Math.min(MAX_COLUMN, column + (children.length > 1));
      children.forEach((child, index) => walk(
        child, level + 1, beside, index + 1, children.length, index + 1 < children.length ? [...rails, beside] : rails,
      ));
    };
    roots.forEach((root, index) => walk(root, 1, 0, index + 1, roots.length, []));
    return rows;
  }

  get unfinished() {
    return [...this.nodes.values()].filter((node) => node.unfinished);
  }
}

/** The list that shows a history; calls choose(node) and remove(node). */
export class Tree {
  constructor(list, history, choose, remove) {
    Object.assign(this, { list, history, choose, remove });
    list.addEventListener("click", (event) => this.pick(event.target.closest("li")));
    list.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show it, with one node chosen; keeps the focus where it was. */
  show(chosen) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const rows = this.history.rows();
    this.list.replaceChildren(...rows.map((row) => this.item(row, row.node === chosen)));
    const tabbable = this.list.querySelector("[aria-selected='true']") ?? this.list.firstElementChild;
    if (tabbable) tabbable.tabIndex = 0;
    if (focused) this.find(focused)?.focus();
    this.list.hidden = rows.length === 0;
  }

  item({ node, level, column, place, of, rails }, selected) {
    const kind = node.refused || node.state === "error" ? "bad" : node.unfinished ? "wait" : "";
    const item = make("li", {
      role: "treeitem", tabIndex: -1, data: { id: node.id }, class: of > 1 && level > 1 ? "branch" : "",
      "aria-level": String(level), "aria-posinset": String(place), "aria-setsize": String(of),
      "aria-selected": String(selected), "aria-label": `${node.title}: ${node.words}`,
    });
    item.style.setProperty("--column", column);
    for (const rail of rails) {
      const line = make("i", { class: "rail", "aria-hidden": "true" });
      line.style.left = `${(rail - column) * COLUMN_WIDTH - 4}px`;
      item.append(line);
    }
    const mark = { queued: "…", running: "…", held: "?", cancelled: "–", error: "!" }[node.state] ?? (node.refused ? "✕" : "");
    const thumb = make("div", { class: "thumb", "aria-hidden": "true" }, mark);
    item.append(thumb, make("div", { class: "node" }, make("b", {}, node.title), make("span", { class: kind }, node.words)));
    const small = node.state === "ready" ? picture(node.edit.id, "thumbnail") : node.picture();
    small.then((found) => {
      if (!found) return;
      const shown = make("img", { class: "thumb", src: found.url, alt: "" });
      shown.addEventListener("error", () => shown.replaceWith(thumb)); // not every browser shows HEIC and TIFF
      thumb.replaceWith(shown);
    });
    return item;
  }

  find(id) {
    return this.list.querySelector(`[data-id="${CSS.escape(id)}"]`);
  }

  pick(item) {
    if (item) this.choose(this.history.nodes.get(item.dataset.id));
  }

  key(event) {
    const item = event.target.closest("li");
    if (!item) return;
    const node = this.history.nodes.get(item.dataset.id);
    const to = {
      ArrowUp: () => item.previousElementSibling,
      ArrowDown: () => item.nextElementSibling,
      ArrowLeft: () => node.parent && this.find(node.parent.id),
      ArrowRight: () => node.children[0] && this.find(node.children[0].id),
      Home: () => this.list.firstElementChild,
      End: () => this.list.lastElementChild,
    }[event.key];
    if (to) to()?.focus();
    else if (event.key === "Enter" || event.key === " ") this.pick(item);
    else if (event.key === "Delete" && node.deletable) this.remove(node);
    else return;
    event.preventDefault();
  }
}
