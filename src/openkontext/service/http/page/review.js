// The view of reviewers: requests that wait for a person, why, and the decision.
import { call } from "./api.js";
import { $, facts, make, tell, when } from "./dom.js";
import { hasRole, report, session, start } from "./shell.js";
import { details, row } from "./tables.js";

const WORDS = { held: "waiting", approved: "approved", rejected: "rejected", expired: "expired" };
const KINDS = { held: "wait", approved: "good", rejected: "bad", expired: "" };
const PICTURES = { input: "Picture handed in", output: "Result" };
const pictureName = (role) => PICTURES[role] ?? role.replace("-", " ");

async function load() {
  try {
    const state = $("state").value;
    const queue = await call("GET", `/v1/review/requests?state=${state}`);
    const { length } = queue.requests;
    $("about-queue").textContent = !queue.reviewing
      ? "Nobody reviews here: the deployment's profile has review off, so that filters refuse by themselves."
      : `${length || "No"} ${length === 1 ? "request" : "requests"} ${WORDS[state]}. ` +
        (queue.reviewers > 1 ? `${queue.reviewers} reviewers must approve each.` : "One reviewer decides.");
    $("requests").replaceChildren(...queue.requests.map(card));
    if ($("log-part").open) await loadLog();
  } catch (problem) {
    report(problem);
  }
}

function card(held) {
  const item = make("li");
  item.append(make(
    "article", { class: "card held", "aria-label": `Request ${held.id.slice(0, 8)}` },
    make(
      "header", {},
      make("h2", {}, held.prompt || "(no instruction)"),
      make("span", { class: `badge ${KINDS[held.state]}` }, WORDS[held.state]),
      make("span", { class: "badge bad" }, held.words || "every result is reviewed"),
      make("span", { class: "muted" }, `asked ${when(held.created)}${held.requester ? ` by ${held.requester}` : ""}; ` +
        (held.state === "approved" ? "holds until " : "expires ") + when(held.expires)),
    ),
    make("div", { class: "pictures" }, ...held.pictures.map((role) => figure(held, role)),
      held.pictures.length ? null : make("p", { class: "muted" }, "There are no pictures with it.")),
    make("div", { class: "told" }, ...reasons(held), ...decisions(held), held.hindrance
      ? make("p", { class: "muted" }, held.hindrance) : decision(held, item)),
  ));
  return item;
}

function figure(held, role) {
  const picture = make("img", { alt: `${pictureName(role)}, blurred` });
  const show = async (method, path, words) => {
    const url = URL.createObjectURL(await call(method, path));
    picture.addEventListener("load", () => {
      picture.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
      URL.revokeObjectURL(url);
    }, { once: true });
    Object.assign(picture, { src: url, alt: words });
  };
  const path = `/v1/review/requests/${held.id}/pictures/${encodeURIComponent(role)}`;
  const clear = make("button", {
    type: "button", "aria-pressed": "false", title: "That you looked is written into the audit log",
    onclick: async () => {
      const shown = clear.getAttribute("aria-pressed") === "true";
      try {
        if (shown) await show("GET", path, `${pictureName(role)}, blurred`);
        else await show("POST", `${path}/clear`, pictureName(role));
        clear.setAttribute("aria-pressed", String(!shown));
        clear.textContent = shown ? "Show clearly" : "Blur again";
      } catch (problem) {
        report(problem);
      }
    },
  }, "Show clearly");
  show("GET", path, `${pictureName(role)}, blurred`).catch(report);
  return make("figure", {}, picture, make("figcaption", {}, make("span", {}, pictureName(role)), clear));
}

function reasons(held) {
  const share = (value) => (value === null ? "left to you" : value.toFixed(2));
  const rows = held.findings.map((found) => row(
    found.refused ? make("b", {}, found.words) : found.words, found.stage, found.check,
    [share(found.score), "number"], [share(found.threshold), "number"],
  ));
  const heads = ["Found", "In the", "By", "Score", "Limit"];
  const table = make("div", { class: "table" }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows)));
  const options = Object.entries(held.options).map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  return [
    rows.length ? table : null,
    ...held.failures.map((text) => make("p", { class: "bad-text" }, `Could not look: ${text}`)),
    options.length ? make("details", {}, make("summary", {}, "Options of the request"), facts(options)) : null,
  ];
}

function decisions(held) {
  const approvals = held.decisions.filter((one) => one.approve).length;
  const state = held.state === "held" && held.approvals_needed > 1
    ? make("p", {}, make("b", {}, `${approvals} of ${held.approvals_needed} approvals.`)) : null;
  const list = held.decisions.length ? make("ul", { class: "decisions", "aria-label": "Decisions" }, ...held.decisions.map((one) =>
    make("li", {}, make("span", { class: `badge ${one.approve ? "good" : "bad"}` }, one.approve ? "approved" : "rejected"),
      ` ${one.reviewer}, ${when(one.at)}: ${one.reason}`))) : null;
  return [state, list];
}

function decision(held, item) {
  const field = make("textarea", { id: `reason-${held.id}`, rows: 2, maxLength: 2000 });
  const send = async (approve) => {
    if (!field.value.trim()) {
      field.setAttribute("aria-invalid", "true");
      tell("A decision needs a reason: it goes into the audit log.");
      return field.focus();
    }
    try {
      const json = { approve, reason: field.value.trim() };
      const decided = await call("POST", `/v1/review/requests/${held.id}/decision`, { json });
      const next = decided.state === "held" ? "It still needs another reviewer." : `It is ${WORDS[decided.state]}.`;
      tell(`Your decision is kept. ${next}`, "good");
      item.replaceWith(card(decided));
    } catch (problem) {
      report(problem);
    }
  };
  return make(
    "div", { class: "decide", role: "group", "aria-label": "Decide" },
    make("label", { htmlFor: field.id }, "Reason of your decision"), field,
    make("div", { class: "actions" },
      make("button", { type: "button", class: "primary", onclick: () => send(true) }, "Approve"),
      make("button", { type: "button", class: "danger", onclick: () => send(false) }, "Reject")),
  );
}

async function loadLog() {
  const log = await call("GET", "/v1/review/log");
  $("log-state").className = log.faults.length ? "bad-text" : "muted";
  $("log-state").textContent = log.faults.length ? `It was tampered with: ${log.faults.join("; ")}.` : "Every entry seals the one before it; none was changed.";
  $("log").replaceChildren(...log.entries.map((entry) => row(
    [String(entry.number), "number"], when(entry.at), entry.actor, entry.action, entry.subject.slice(0, 8), [details(entry.detail), "long"],
  )));
}

$("state").addEventListener("change", load);
$("reload").addEventListener("click", load);
$("log-part").addEventListener("toggle", () => $("log-part").open && loadLog().catch(report));
await start();
if (session.me && hasRole("reviewer")) await load();
document.body.dataset.ready = "true";
