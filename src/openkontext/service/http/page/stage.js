// The large picture: what is chosen in the history, how far it is, what came of it.
import { call, follow, picture } from "./api.js";
import { showBoth, showOne } from "./compare.js";
import { $, facts, make, size, when } from "./dom.js";
import { refusal } from "./history.js";
import { commands, copyPicture } from "./sharing.js";
import { feedback, report } from "./shell.js";
import { Variants } from "./variants.js";
import { fit, setUpViewer } from "./viewer.js";

const place = () => $("picture");

/** Names of what is written into a file, as people say them. */
const IN_FILE = {
  prompt: "Instruction", negative_prompt: "Not to show", seed: "Seed", num_inference_steps: "Steps", guidance_scale: "Guidance",
  true_cfg_scale: "True guidance", model: "Model", precision: "Precision", digest: "Digest of the model", software: "Made by",
};

export class Stage {
  /**
   * `actions` has again(node), beside(node), useSettings(node) and remove(node) for the buttons; progress(node), and
   * finished(node), called when an edit came to its end.
   */
  constructor(actions) {
    this.actions = actions;
    this.node = null;
    this.shown = "";
    this.stop = () => {};
    this.variants = new Variants($("variants-shown"), (picked) => actions.choose(picked));
    setUpViewer();
    $("cancel").addEventListener("click", () => this.cancel());
    $("report").addEventListener("click", () => feedback("harmful result", this.node.edit.id));
    $("in-file-open").addEventListener("click", () => this.toggleFile());
    $("commands-open").addEventListener("click", () => this.toggleCommands());
    $("again").addEventListener("click", () => this.actions.again(this.node));
    $("beside").addEventListener("click", () => this.actions.beside(this.node));
    $("use-settings").addEventListener("click", () => this.actions.useSettings(this.node));
    $("delete").addEventListener("click", () => this.actions.remove(this.node));
    $("copy").addEventListener("click", () => this.copy());
  }

  /** Show a node, alone or beside its variants, or the empty stage. What is shown already stays. */
  async show(node, beside = false) {
    const shown = node ? `${node.id} ${beside ? "beside" : node.state}` : "";
    if (node && beside) this.variants.show(node.variants);
    if (this.node === node && this.shown === shown) return;
    this.stop();
    this.stop = () => {};
    if (this.node !== node || beside) fit();
    Object.assign(this, { node, shown });
    $("empty").hidden = node !== null;
    $("shown").hidden = node === null;
    for (const part of ["progress", "message", "result", "in-file", "commands"]) $(part).hidden = true;
    for (const opens of ["in-file-open", "commands-open"]) $(opens).setAttribute("aria-expanded", "false");
    $("viewer").hidden = beside;
    if (!beside) this.variants.hide();
    if (!node || beside) return;
    $("use-settings").hidden = !node.edit;
    const many = node.variants.length;
    $("beside").hidden = many < 2;
    $("beside").textContent = `Side by side (${many})`;
    const still = () => this.node === node && this.shown === shown;
    if (node.state === "source") {
      const here = await node.picture();
      if (still()) showOne(place(), here?.url, node.title);
    } else if (node.state === "ready") {
      const [before, after] = await Promise.all([node.before(), node.picture()]);
      if (!still()) return;
      if (after) showBoth(place(), before?.url, after.url);
      else showOne(place(), null, "This result was deleted after its time");
      if (after) this.showResult(after);
    } else {
      const before = await node.before();
      if (!still()) return;
      if (before) showOne(place(), before.url, "The picture to edit", node.state === "running" ? "working" : "");
      else place().replaceChildren(make("p", { class: "unseen" }, node.unfinished ? "Your picture will appear here." : "There is no picture."));
      if (node.unfinished) this.follow(node);
      this.showMessage(node);
    }
  }

  follow(node) {
    const bar = $("bar");
    const update = (state) => {
      node.edit = { ...node.edit, ...state };
      this.shown = `${node.id} ${node.state}`;
      $("progress").hidden = false;
      const share = state.progress ?? 0;
      if (node.state === "running") bar.value = share;
      else bar.removeAttribute("value");
      const percent = Math.round(100 * share);
      $("progress-text").textContent = { queued: "Waiting for its turn", held: "Waiting for a person" }[node.state] ?? `Working, ${percent}%`;
      document.title = node.state === "running" ? `${percent}% · openkontext` : "Waiting · openkontext";
      if (state.preview) this.showPreview(state.preview.image);
      this.actions.progress(node);
      this.showMessage(node);
    };
    update(node.edit);
    this.stop = follow(node.edit.id, {
      onProgress: update,
      onDone: () => this.actions.finished(node),
      onLost: () => this.say("wait", "The connection to the service is lost. Your edit goes on there; trying to reach it again…"),
      onBack: () => this.showMessage(node),
    });
  }

  showPreview(url) {
    const known = place().querySelector(".preview");
    if (known) known.src = url;
    else place().append(make("img", { class: "preview working", src: url, alt: "A first glimpse of the result" }));
  }

  showMessage(node) {
    const { edit, state } = node;
    if (node.refused) {
      const wrong = make("button", { type: "button", onclick: () => feedback("wrong refusal", edit.id) }, "This refusal is wrong");
      this.say("bad", refusal(edit), wrong);
    } else if (state === "held") {
      this.say("wait", "A person looks at this request before it goes on. You may close this page and come back later.");
    } else if (state === "error" || state === "cancelled") {
      const again = make("button", { type: "button", onclick: () => this.actions.again(node) }, "Try again");
      this.say(state === "error" ? "bad" : "", state === "error" ? `It failed: ${edit.details.error}.` : "It was cancelled.", again);
    } else {
      $("message").hidden = true;
    }
  }

  say(kind, text, ...buttons) {
    const message = $("message");
    message.className = `notice ${kind}`;
    message.replaceChildren(make("span", {}, text), ...buttons);
    message.hidden = false;
  }

  showResult(after) {
    const { edit } = this.node;
    const { seed, width, height, seconds, warnings = [], notes = [] } = edit.result;
    const sizes = width ? ` · ${width} × ${height}` : "";
    const took = seconds ? ` · ${seconds.toFixed(1)} s` : "";
    $("caption").replaceChildren(make("b", {}, edit.prompt), make("span", { class: "muted" }, `  seed ${seed}${sizes}${took}`));
    for (const [id, told] of [["warnings", warnings], ["notes", notes]]) {
      $(id).replaceChildren(...told.map((text) => make("li", {}, text.charAt(0).toUpperCase() + text.slice(1))));
    }
    const extension = edit.options.output_format ?? "png";
    Object.assign($("download"), { href: after.url, download: `openkontext-${edit.id.slice(0, 8)}.${extension}` });
    $("result").hidden = false;
  }

  async toggleFile() {
    const card = $("in-file");
    const opened = card.hidden;
    card.hidden = !opened;
    $("in-file-open").setAttribute("aria-expanded", String(opened));
    if (!opened) return;
    const { edit } = this.node;
    card.replaceChildren(make("p", { class: "muted" }, "Reading the file…"));
    try {
      const file = await call("GET", `/v1/jobs/${edit.id}/file`);
      if (this.node.edit.id === edit.id) card.replaceChildren(...inFile(file));
    } catch (problem) {
      card.replaceChildren(make("p", { class: "bad-text" }, problem.message));
    }
  }

  toggleCommands() {
    const card = $("commands");
    card.hidden = !card.hidden;
    $("commands-open").setAttribute("aria-expanded", String(!card.hidden));
    if (!card.hidden) card.replaceChildren(...commands(this.node));
  }

  async copy() {
    try {
      await copyPicture((await this.node.picture()).blob);
      $("copy").textContent = "Copied";
      $("status").textContent = "The picture is in the clipboard.";
      setTimeout(() => ($("copy").textContent = "Copy picture"), 2500);
    } catch (problem) {
      report(problem);
    }
  }

  async cancel() {
    $("cancel").disabled = true;
    try {
      await call("POST", `/v1/cancel?id=${encodeURIComponent(this.node.edit.id)}`);
    } catch (problem) {
      report(problem);
    }
    $("cancel").disabled = false;
  }
}

const TRUST = {
  anchor: "an authority that this service trusts vouches for the signer",
  own: "signed by this service",
  unknown: "the signer is not one that this service knows",
};
const ACTIONS = { "c2pa.created": "made from words", "c2pa.edited": "edited", "c2pa.opened": "opened" };

function signedRecord(record) {
  const title = make("h2", { class: "small" }, "Signed record");
  if (!record.signed) return [title, make("p", {}, "It carries none.")];
  const state = record.valid
    ? make("p", {}, make("span", { class: "badge good" }, "whole"), ` Nothing was changed since it was signed; ${TRUST[record.trust] ?? TRUST.unknown}.`)
    : make("p", {}, make("span", { class: "badge bad" }, "changed"), ` ${record.tampering.join("; ")}.`);
  const first = record.chain[0]?.unsigned_parent ? [make("li", {}, "a picture without a record")] : [];
  const steps = record.chain.map((step) => make("li", {},
    `${ACTIONS[step.action] ?? step.action} by ${step.software}${step.model ? ` with ${step.model}` : ""}`,
    make("span", { class: "muted" }, `, signed by ${step.signer}${step.time ? `, ${when(Date.parse(step.time) / 1000)}` : ""}`)));
  return [title, state, make("ol", { class: "chain" }, ...first, ...steps)];
}

function inFile(file) {
  const told = Object.entries(file.metadata).map(([name, value]) => [IN_FILE[name] ?? name, value]);
  return [
    ...signedRecord(file.record),
    make("h2", { class: "small" }, "Written into the file"),
    told.length ? facts(told) : make("p", {}, "Nothing about how it was made."),
    make("h2", { class: "small" }, "The file"),
    facts([
      ["Type", `${file.media_type}, ${file.width} × ${file.height}, ${size(file.bytes)}`],
      ["SHA-256", file.sha256],
    ]),
    make("p", { class: "muted hint" }, "Downloading it shares it with nobody."),
  ];
}
