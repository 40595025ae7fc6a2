// The view where one edits: what is asked, and which picture it is asked of.
import { call, picture, Problem } from "./api.js";
import { $, ask, make, tell } from "./dom.js";
import { asked, complain, fill, isSound, remember, seeds, setPrompt, settingsIn, settingsOf, setUpForm, tellAtForm } from "./form.js";
import { History, refusal, Tree } from "./history.js";
import { Mask } from "./mask.js";
import { readMetadata } from "./metadata.js";
import { base64, look, takeDropped } from "./pictures.js";
import { addReferences, references, referencesOf, setReferences } from "./references.js";
import { allowed, report, session, start } from "./shell.js";
import { Stage } from "./stage.js";

const EXAMPLES = [
  ["meadow", "make it night", "A house, a blue ball and a red balloon on a meadow"],
  ["beach", "make the boat green", "A boat with a red sail and a kite on a beach"],
  ["city", "make the car red", "A blue car in a street and a purple balloon"],
  ["forest", "make it winter", "A cat and a tent in an autumn forest"],
];
const CHIPS = ["make it night", "make it winter", "make it sunset", "make it black and white"];
const BESIDE = "beside-"; // in the address, before the id of one of the variants
const POLL_SECONDS = 2.5;
const BESIDE_SECONDS = 0.7; // variants are not followed one by one: browsers keep few connections open
const STARTING_SECONDS = 1.5;
const narrow = matchMedia("(max-width: 1179px)"); // the picture stands above the form then

const history = new History();
const tree = new Tree($("tree"), history, goTo, remove);
const stage = new Stage({ again, finished, useSettings, remove, choose: goTo, beside: (node) => goTo(node, true), progress: () => tree.show(chosen) });
let chosen = null; // node of the history that is shown
let older = null; // the last edit that was loaded, where there are older ones
let beside = false; // whether it is shown beside its variants
let mask = null; // {brush, node}

/** The node whose picture the next edit is made from: the chosen one, or what it was made from. */
function base() {
  if (beside) return chosen.parent; // none of the variants was picked
  return chosen && !chosen.usable ? chosen.parent : chosen;
}

/** Show a node of the history; null begins anew. */
async function choose(node, besideOthers = false) {
  if (mask?.brush.down) mask.brush.lift();
  endPainting();
  chosen = node;
  beside = besideOthers && node !== null && node.variants.length > 1;
  document.title = "Edit · openkontext";
  const hash = node?.edit ? `#${beside ? BESIDE : ""}${node.id}` : "";
  if (location.hash !== hash) window.history.pushState(null, "", hash || location.pathname);
  await stage.show(node, beside);
  await showAll();
}

/** Show the node that the address names, or the one that is given. */
async function chooseNamed(otherwise = null) {
  const name = location.hash.slice(1);
  const id = name.replace(BESIDE, "");
  if (id && !history.nodes.has(id)) { // such as an older one, or one of another tab
    const edit = await call("GET", `/v1/jobs/${id}`).catch(() => null);
    if (edit) history.take([edit]);
  }
  await choose(history.nodes.get(id) ?? otherwise, name.startsWith(BESIDE));
}

/** Show a node that the user asked for, also where the picture is out of sight. */
async function goTo(node, besideOthers = false) {
  await choose(node, besideOthers);
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
  if (here) $("base-picture").src = here.url; // hidden again where the browser cannot show it
  $("base-title").textContent = from ? from.title : "No picture";
  $("base-name").textContent = from ? (from.edit ? "edits this result" : "edits this picture") : "words alone make a new one";
  $("drop").hidden = chosen === null;
  $("node-tools").hidden = beside || !chosen?.deletable;
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

/** Take a picture that was dropped, pasted, chosen, or is an example; the settings that a result was made with come too. */
async function take(file) {
  try {
    await choose(history.add(await look(file, session.about)));
    const made = await readMetadata(file);
    if (made.prompt) restore(settingsIn(made));
    return true;
  } catch (problem) {
    if (problem.shrink) {
      const smaller = make("button", { type: "button", onclick: async () => choose(history.add(await problem.shrink())) }, "Use a smaller copy");
      tell(problem.message, "wait", smaller);
    } else report(problem);
    return false;
  }
}

async function submit() {
  if ($("go").disabled || !isSound()) return;
  tellAtForm();
  if (!(await allowed())) return;
  endPainting();
  const from = base();
  const painted = mask && !mask.brush.empty && mask.node === from ? await mask.brush.blob() : null;
  await send(asked(), from, painted, references(), Number($("count").value));
}

/** Submit edits of a node's picture, with a seed each; null makes pictures from words alone. */
async function send(json, from, maskBlob, further, count = 1) {
  $("go").disabled = true;
  try {
    if (from?.edit) json.parent_id = from.id;
    else if (from) {
      const here = await from.picture();
      if (!here) return tellAtForm("This picture is no longer there. Choose it again.");
      json.input_image = await base64(here.blob);
    }
    for (const [index, { blob }] of further.entries()) json[`input_image_${index + 2}`] = await base64(blob);
    if (maskBlob) json.mask = await base64(maskBlob);
    const all = seeds(json.seed, count).map((seed) => ({ json: { ...json, seed }, once: crypto.randomUUID() }));
    await handIn(all, from);
  } catch (problem) {
    refuse(problem);
  } finally {
    $("go").disabled = false;
  }
}

/**
 * Hand requests in, one after the other; a second time each stands for the same edit. The others wait until the filters
 * took the first: what is refused is asked for once.
 */
async function handIn(waiting, from, accepted = []) {
  while (waiting.length) {
    const { json, once } = waiting[0];
    try {
      const { id } = await call("POST", "/v1/flux-kontext-dev", { json, headers: { "Idempotency-Key": once } });
      history.take([await call("GET", `/v1/jobs/${id}`)], from);
      waiting.shift();
      const node = history.nodes.get(id);
      accepted.push(node);
      if (accepted.length > 1) continue;
      say("Your edit was accepted.");
      await goTo(node);
      if (!node.unfinished) sayEnd(node);
      $("go").disabled = false;
      if (waiting.length && !(await isAdmitted(node))) return;
    } catch (problem) {
      const again = make("button", { type: "button", onclick: () => handIn(waiting, from, accepted).catch(refuse) }, "Try again");
      refuse(problem, ...(["gone", "busy"].includes(problem.kind) ? [again] : []));
      break;
    }
  }
  if (accepted.length < 2) return;
  say(`${accepted.length} variants were accepted.`);
  if (accepted.includes(chosen)) await goTo(accepted[0], true);
}

/** Whether an edit has passed the filters before it, once they looked. */
async function isAdmitted(node) {
  while (node.unfinished && !(node.edit.progress > 0)) {
    if (node.state === "held") {
      tellAtForm("A person looks at the first of the variants; the others were not asked for.", "wait");
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, BESIDE_SECONDS * 1000));
    history.take([await call("GET", `/v1/jobs/${node.id}`)]);
  }
  return node.unfinished || node.usable;
}

/** Say at the form why it was not taken. */
function refuse(problem, ...buttons) {
  if (!(problem instanceof Problem) || problem.kind === "denied") return report(problem);
  return tellAtForm(problem.message, problem.kind === "busy" ? "wait" : "bad", ...buttons);
}

function restore(settings) {
  const back = remember();
  fill(settings);
  showAll();
  tellAtForm("The settings that this picture was made with stand in the form.", "", make("button", { type: "button", onclick: back }, "Take back"));
}

/** Ask for an edit once more, with another seed. */
async function again(node) {
  const json = settingsOf(node.edit, node.state === "ready" ? undefined : node.edit.options.seed);
  const further = await referencesOf(node);
  const painted = node.edit.has_mask ? (await picture(node.id, "mask"))?.blob : null;
  if (await allowed()) await send(json, node.parent ?? node.origin, painted, further);
}

/** Ask for what a node asked for, in the form: to be changed, and done again with whatever picture is chosen. */
async function useSettings(node) {
  fill(settingsOf(node.edit, node.edit.result?.seed ?? node.edit.options.seed));
  setReferences(await referencesOf(node));
  const painted = node.edit.has_mask && (await picture(node.id, "mask"));
  if (painted && base()) {
    await paint();
    mask.brush.clear();
    await mask.brush.add(painted.blob);
    endPainting();
  }
  await showAll();
  say("The settings of this step stand in the form.");
  $("prompt").focus();
}

/** Delete what stands at a node, once the user is sure: an edit with its pictures, or a picture with all its edits. */
async function remove(node) {
  const edits = [node, ...(node.edit ? [] : node.descendants)].filter((one) => one.edit);
  $("sure-text").textContent = node.edit
    ? `“${node.title}” goes with its pictures.${node.children.length ? " What was made of it stays." : ""}`
    : `${node.title} goes${edits.length ? `, and so do the ${edits.length} edits of it` : ""}.`;
  if ((await ask($("sure"))) !== "delete") return;
  const next = node.parent;
  try {
    for (const one of edits.reverse()) {
      await call("DELETE", `/v1/jobs/${one.id}`).catch((problem) => {
        if (problem.kind !== "missing") throw problem;
      });
      history.remove(one);
    }
    history.remove(node);
    say("It is deleted.");
  } catch (problem) {
    report(problem);
  }
  if (!history.nodes.has(chosen?.id)) await choose(history.nodes.get(next?.id) ?? null);
  await showAll();
  (document.querySelector("#tree [tabindex='0']") ?? $("prompt")).focus();
}

/** Load the newest edits, or those that are older than all that are known. */
async function loadEdits() {
  const told = await call("GET", older ? `/v1/jobs?after=${older}` : "/v1/jobs").catch((problem) => (report(problem), null));
  if (!told) return;
  older = told.next;
  history.take(told.edits);
  $("older").hidden = older === null;
}

/** An edit came to its end. */
async function finished(node) {
  try {
    history.take([await call("GET", `/v1/jobs/${node.id}`)]);
  } catch (problem) {
    report(problem);
  }
  document.title = "Edit · openkontext";
  sayEnd(node);
  if (node === chosen) await stage.show(node, beside);
  await showAll();
}

/** Say how an edit ended; a refusal also where its instruction stands. */
function sayEnd(node) {
  say(node.state === "ready" ? `Done: ${node.title}` : `Ended: ${node.words}`);
  if (node.refused && $("prompt").value.trim() === node.edit.prompt) complain("prompt", refusal(node.edit));
}

/** Ask after the edits that are not on the stage. */
async function poll() {
  const isFollowed = (node) => node === chosen && !beside;
  const others = history.unfinished.filter((node) => !isFollowed(node));
  if (others.length) {
    const told = await call("GET", "/v1/jobs").catch(() => null);
    if (told) history.take(told.edits.filter((edit) => history.nodes.has(edit.id) && !isFollowed(history.nodes.get(edit.id))));
    others.filter((node) => !node.unfinished).forEach(sayEnd);
    if (beside && chosen.variants.length < 2) await choose(chosen);
    else if (beside) await stage.show(chosen, beside);
    await showAll();
  }
  setTimeout(poll, (beside ? BESIDE_SECONDS : POLL_SECONDS) * 1000);
}

/** Say that the service is starting, until it is ready. */
async function waitForWorker() {
  while (!session.about.ready) {
    $("starting").hidden = false;
    await new Promise((resolve) => setTimeout(resolve, STARTING_SECONDS * 1000));
    session.about.ready = await call("GET", "/v1/about").then((about) => about.ready, () => false);
  }
  $("starting").hidden = true;
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
    if (!(await shown?.decode().then(() => true, () => false))) {
      tellAtForm("This browser cannot show the picture, so nothing can be painted over it. Save it as PNG or JPEG first.", "wait");
      stage.show(chosen, beside);
      return;
    }
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
  stage.show(chosen, beside).then(showAll);
}

function setUp() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  setUpForm();
  on("compose", "submit", (event) => (event.preventDefault(), submit()));
  for (const id of ["choose", "replace"]) on(id, "click", () => $("file").click());
  on("file", "change", () => ($("file").files[0] && take($("file").files[0]), ($("file").value = "")));
  on("drop", "click", () => goTo(null));
  on("older", "click", async () => (await loadEdits(), showAll()));
  on("reference", "click", () => $("reference-file").click());
  on("reference-file", "change", async () => (await addReferences([...$("reference-file").files]), ($("reference-file").value = "")));
  on("as-reference", "click", async () => {
    const here = await chosen.picture();
    await addReferences([new File([here.blob], chosen.title, { type: here.blob.type })]);
  });
  on("mask", "click", () => ($("mask-tools").hidden ? paint() : endPainting()));
  on("mask-done", "click", () => (endPainting(), $("prompt").focus()));
  on("mask-undo", "click", () => mask.brush.undo());
  on("mask-clear", "click", () => mask.brush.clear());
  on("fill", "change", () => ($("fill").value && mask.brush.fill($("fill").value.split(",").map(Number)), ($("fill").value = "")));
  on("seed-reuse", "click", () => (($("seed").value = chosen.edit.result.seed), showAll(), $("seed").focus()));
  on("seed-random", "click", () => (($("seed").value = ""), showAll(), $("seed").focus()));
  on("seed", "input", showAll);
  $("base-picture").addEventListener("error", () => ($("base-picture").hidden = true));
  takeDropped(take);
  addEventListener("popstate", () => chooseNamed());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
    else if (event.key === "/" && !event.target.closest("input, textarea, select, dialog")) $("prompt").focus();
    else return;
    event.preventDefault();
  });
  $("chips").append(...CHIPS.map((text) => make("button", {
    type: "button", onclick: () => (setPrompt(text), complain("prompt", ""), $("prompt").focus()),
  }, text)));
  $("examples").append(...EXAMPLES.map(([name, instruction, words]) => make("li", {}, make("button", {
    type: "button", onclick: () => tryExample(name, instruction),
  }, make("img", { src: `/static/examples/${name}.png`, alt: words }), instruction))));
}

async function tryExample(name, instruction) {
  const blob = await (await fetch(`/static/examples/${name}.png`)).blob();
  if (!(await take(new File([blob], `${name}.png`, { type: "image/png" })))) return;
  setPrompt(instruction);
  await submit();
}

setUp();
await start();
const { max_upload_bytes: bytes, max_pixels: pixels, steps, guidance, retention_hours: hours } = session.about;
$("limit").textContent = `, up to ${Math.floor(bytes / 2 ** 20)} MiB and ${Math.floor(pixels / 1e6)} megapixels`;
$("steps").placeholder = steps ?? "";
$("guidance").placeholder = guidance ?? "";
$("history-kept").textContent = `Kept for ${hours} hours, then deleted.`;
if (session.me) await loadEdits();
await chooseNamed(history.unfinished.at(-1));
document.body.dataset.ready = "true";
poll();
waitForWorker();
