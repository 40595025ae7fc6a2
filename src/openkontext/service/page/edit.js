// The view where one edits: what is asked, and which picture it is asked of.
import { call, picture } from "./api.js";
import { $, make, tell } from "./dom.js";
import { History, Tree } from "./history.js";
import { Mask } from "./mask.js";
import { base64, look, takeDropped } from "./pictures.js";
import { allowed, report, session, start } from "./shell.js";
import { Stage } from "./stage.js";

const EXAMPLES = [
  ["meadow", "make it night", "A house, a blue ball and a red balloon on a meadow"],
  ["beach", "make the boat green", "A boat with a red sail and a kite on a beach"],
  ["city", "make the car red", "A blue car in a street and a purple balloon"],
  ["forest", "make it winter", "A cat and a tent in an autumn forest"],
];
const CHIPS = ["make it night", "make it winter", "make it sunset", "make it black and white"];
const MAX_REFERENCES = 3;
const POLL_SECONDS = 2.5;
const narrow = matchMedia("(max-width: 1179px)"); // the picture stands above the form then

const history = new History();
const tree = new Tree($("tree"), history, goTo);
const stage = new Stage({ again, finished, progress: () => tree.show(chosen) });
let chosen = null; // node of the history that is shown
let references = [];
let mask = null; // {brush, node}

/** The node whose picture the next edit is made from: the chosen one, or what it was made from. */
function base() {
  return chosen && !chosen.usable ? chosen.parent : chosen;
}

/** Show a node of the history; null begins anew. */
async function choose(node) {
  if (mask?.brush.down) mask.brush.lift();
  endPainting();
  chosen = node;
  document.title = "Edit · openkontext";
  const hash = node?.edit ? `#${node.id}` : "";
  if (location.hash !== hash) window.history.pushState(null, "", hash || location.pathname);
  await stage.show(node);
  await showAll();
}

/** Show a node that the user asked for, also where the picture is out of sight. */
async function goTo(node) {
  await choose(node);
  if (narrow.matches) $("stage").scrollIntoView({ block: "start" });
}

async function showAll() {
  tree.show(chosen);
  const any = history.nodes.size > 0;
  $("history-empty").hidden = any;
  $("history-kept").hidden = !any;
  const from = base();
  const here = await from?.picture();
  if (from !== base()) return;
  $("base-picture").hidden = !here;
  if (here) $("base-picture").src = here.url;
  $("base-title").textContent = from ? from.title : "No picture";
  $("base-name").textContent = from ? (from.edit ? "edits this result" : "edits this picture") : "words alone make a new one";
  $("drop").hidden = chosen === null;
  $("mask").disabled = !here;
  $("replace").textContent = from ? "Other…" : "Choose…";
  const seed = chosen?.edit?.result?.seed;
  $("seed-reuse").hidden = seed === undefined || $("seed").value === String(seed);
  $("seed-reuse").textContent = `Reuse ${seed}`;
  $("seed-random").hidden = $("seed").value === "";
  if (mask && mask.node !== from) mask = null;
  if (mask && chosen?.state === "source") mask.brush.show(false);
  $("mask").textContent = mask && !mask.brush.empty ? "Mask: painted" : "Paint where it may change";
}

/** Take a picture that was dropped, pasted, chosen, or is an example. */
async function take(file) {
  try {
    await choose(history.add(await look(file, session.about)));
    return true;
  } catch (problem) {
    if (problem.shrink) {
      const smaller = make("button", { type: "button", onclick: async () => choose(history.add(await problem.shrink())) }, "Use a smaller copy");
      tell(problem.message, "wait", smaller);
    } else report(problem);
    return false;
  }
}

/** What the form asks for, as the API takes it. */
function asked() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  return {
    prompt: $("prompt").value.trim(),
    seed: $("seed").value || undefined,
    aspect_ratio: $("ratio").value || undefined,
    fit: $("ratio").value ? $("fit").value : undefined,
    steps: number("steps"),
    guidance: number("guidance"),
    output_format: $("format").value,
    preview: true,
  };
}

async function submit() {
  const json = asked();
  for (const [id, wrong] of [["prompt", json.prompt === ""], ["seed", !/^\d{0,20}$/.test($("seed").value)]]) {
    $(id).setAttribute("aria-invalid", String(wrong));
    if (!wrong) continue;
    tell(id === "prompt" ? "Say what to change, such as “make it night”." : "A seed is a whole number, or empty for a random one.");
    $(id).focus();
    return;
  }
  if (!(await allowed())) return;
  endPainting();
  const from = base();
  const painted = mask && !mask.brush.empty && mask.node === from ? await mask.brush.blob() : null;
  await send(json, from, painted, references);
}

/** Submit an edit of a node's picture; null makes one from words alone. */
async function send(json, from, maskBlob, further) {
  $("go").disabled = true;
  try {
    if (from?.edit) json.parent_id = from.id;
    else if (from) {
      const here = await from.picture();
      if (!here) return tell("This picture is no longer there. Choose it again.");
      json.input_image = await base64(here.blob);
    }
    for (const [index, { blob }] of further.entries()) json[`input_image_${index + 2}`] = await base64(blob);
    if (maskBlob) json.mask = await base64(maskBlob);
    await post(json, from, crypto.randomUUID());
  } catch (problem) {
    report(problem);
  } finally {
    $("go").disabled = false;
  }
}

/** Hand the request in; a second time it stands for the same edit. */
async function post(json, from, once) {
  let accepted;
  try {
    accepted = await call("POST", "/v1/flux-kontext-dev", { json, headers: { "Idempotency-Key": once } });
  } catch (problem) {
    const again = make("button", { type: "button", onclick: () => post(json, from, once).catch(report) }, "Try again");
    if (problem.kind !== "gone" && problem.kind !== "busy") throw problem;
    return report(problem, again);
  }
  history.take([await call("GET", `/v1/jobs/${accepted.id}`)], from);
  say("Your edit was accepted.");
  const node = history.nodes.get(accepted.id);
  // A refusal can be there already: then the instruction stays, to be mended.
  if ((node.unfinished || node.usable) && $("prompt").value.trim() === json.prompt) $("prompt").value = "";
  await goTo(node);
}

/** Ask for an edit once more, with another seed. */
async function again(node) {
  const { prompt, options, references: count, has_mask: hasMask } = node.edit;
  const { aspect_ratio: ratio, seed, safety_tolerance: _, ...rest } = options;
  const json = { prompt, ...rest, aspect_ratio: ratio ? ratio.join(":") : undefined };
  if (node.state !== "ready") json.seed = seed;
  const names = Array.from({ length: count }, (_, index) => `reference-${index + 1}`);
  const further = await Promise.all(names.map((name) => picture(node.id, name)));
  const painted = hasMask ? (await picture(node.id, "mask"))?.blob : null;
  if (await allowed()) await send(json, node.parent, painted, further.filter(Boolean));
}

/** An edit came to its end. */
async function finished(node) {
  try {
    history.take([await call("GET", `/v1/jobs/${node.id}`)]);
  } catch (problem) {
    report(problem);
  }
  document.title = "Edit · openkontext";
  const ready = node.state === "ready";
  say(ready ? `Done: ${node.title}` : `Ended: ${node.words}`);
  if (!ready && $("prompt").value === "") $("prompt").value = node.edit.prompt;
  if (node === chosen) await stage.show(node);
  await showAll();
}

/** Ask after the edits that are not on the stage. */
async function poll() {
  const others = history.unfinished.filter((node) => node !== chosen);
  if (others.length) {
    const told = await call("GET", "/v1/jobs").catch(() => null);
    if (told) history.take(told.edits.filter((edit) => edit.id !== chosen?.id));
    await showAll();
  }
  setTimeout(poll, POLL_SECONDS * 1000);
}

function say(text) {
  $("status").textContent = text;
}

async function paint() {
  const from = base();
  if (!from) return;
  if (chosen !== from || from.state !== "source") await showAlone(from);
  if (mask?.node !== from) {
    const shown = $("picture").querySelector("img");
    if (!shown) return;
    await shown.decode();
    mask = { brush: new Mask($("picture"), shown.naturalWidth, shown.naturalHeight), node: from };
  }
  mask.brush.show(true);
  $("mask-tools").hidden = false;
  $("result").hidden = true;
  if (narrow.matches) $("stage").scrollIntoView({ block: "start" });
  $("mask").setAttribute("aria-pressed", "true");
}

/** Show only the picture of a node, without the line and what came before. */
async function showAlone(node) {
  const here = await node.picture();
  $("picture").replaceChildren(make("img", { src: here.url, alt: node.title }));
  stage.shown = ""; // the stage shows it anew when painting is done
}

function endPainting() {
  if ($("mask-tools").hidden) return;
  $("mask-tools").hidden = true;
  $("mask").setAttribute("aria-pressed", "false");
  mask.brush.show(false);
  if (mask.brush.empty) mask = null;
  say(mask ? "Only what you painted will change." : "Nothing is painted: the whole picture may change.");
  stage.show(chosen).then(showAll);
}

async function addReference(files) {
  for (const file of files) {
    if (references.length >= MAX_REFERENCES) {
      tell(`At most ${MAX_REFERENCES} reference pictures can be given.`, "wait");
      break;
    }
    try {
      references.push(await look(file, session.about));
    } catch (problem) {
      report(problem);
    }
  }
  showReferences();
}

function showReferences() {
  $("references").hidden = references.length === 0;
  $("references").replaceChildren(...references.map((one, index) => make(
    "li", {},
    make("img", { src: one.url, alt: `Reference ${index + 1}: ${one.name}` }),
    make("button", {
      type: "button", "aria-label": `Remove reference ${index + 1}`,
      onclick: () => (references.splice(index, 1), showReferences(), $("reference").focus()),
    }, "×"),
  )));
}

function setUp() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  $("compose").noValidate = true;
  on("compose", "submit", (event) => (event.preventDefault(), submit()));
  for (const id of ["choose", "replace"]) on(id, "click", () => $("file").click());
  on("file", "change", () => ($("file").files[0] && take($("file").files[0]), ($("file").value = "")));
  on("drop", "click", () => goTo(null));
  on("reference", "click", () => $("reference-file").click());
  on("reference-file", "change", async () => (await addReference([...$("reference-file").files]), ($("reference-file").value = "")));
  on("as-reference", "click", async () => {
    const here = await chosen.picture();
    await addReference([new File([here.blob], chosen.title, { type: here.blob.type })]);
  });
  on("mask", "click", () => ($("mask-tools").hidden ? paint() : endPainting()));
  on("mask-done", "click", () => (endPainting(), $("prompt").focus()));
  on("mask-undo", "click", () => mask.brush.undo());
  on("mask-clear", "click", () => mask.brush.clear());
  on("fill", "change", () => ($("fill").value && mask.brush.fill($("fill").value.split(",").map(Number)), ($("fill").value = "")));
  on("seed-reuse", "click", () => (($("seed").value = chosen.edit.result.seed), showAll(), $("seed").focus()));
  on("seed-random", "click", () => (($("seed").value = ""), showAll(), $("seed").focus()));
  on("seed", "input", showAll);
  on("prompt", "input", () => sessionStorage.setItem("prompt", $("prompt").value));
  takeDropped(take);
  addEventListener("popstate", () => choose(history.nodes.get(location.hash.slice(1)) ?? null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
    else if (event.key === "/" && !event.target.closest("input, textarea, select, dialog")) $("prompt").focus();
    else return;
    event.preventDefault();
  });
  $("chips").append(...CHIPS.map((text) => make("button", {
    type: "button", onclick: () => (($("prompt").value = text), $("prompt").focus()),
  }, text)));
  $("examples").append(...EXAMPLES.map(([name, instruction, words]) => make("li", {}, make("button", {
    type: "button", onclick: () => tryExample(name, instruction),
  }, make("img", { src: `/static/examples/${name}.png`, alt: words }), instruction))));
}

async function tryExample(name, instruction) {
  const blob = await (await fetch(`/static/examples/${name}.png`)).blob();
  if (!(await take(new File([blob], `${name}.png`, { type: "image/png" })))) return;
  $("prompt").value = instruction;
  await submit();
}

setUp();
await start();
const { max_upload_bytes: bytes, max_pixels: pixels, steps, guidance, retention_hours: hours } = session.about;
$("limit").textContent = `, up to ${Math.floor(bytes / 2 ** 20)} MiB and ${Math.floor(pixels / 1e6)} megapixels`;
$("steps").placeholder = steps ?? "";
$("guidance").placeholder = guidance ?? "";
$("history-kept").textContent = `Kept for ${hours} hours, then deleted.`;
$("prompt").value = sessionStorage.getItem("prompt") ?? "";
if (session.me) {
  const told = await call("GET", "/v1/jobs").catch((problem) => (report(problem), { edits: [] }));
  history.take(told.edits);
}
await choose(history.nodes.get(location.hash.slice(1)) ?? history.unfinished.at(-1) ?? null);
document.body.dataset.ready = "true";
poll();
