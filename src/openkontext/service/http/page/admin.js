// The view of admins: trends, accounts and their standing, appeals, feedback, the audit log.
import { call } from "./api.js";
import { $, ask, make, tell, when } from "./dom.js";
import { hasRole, report, session, start } from "./shell.js";
import { details, row } from "./tables.js";

const SVG = "http://www.w3.org/2000/svg";
const STANDING = { good: "good", warned: "wait", suspended: "bad", banned: "bad" };
let accounts = [];

async function load() {
  const days = $("days").value;
  try {
    const [trends, listed, appeals, feedback, audit] = await Promise.all([
      call("GET", `/v1/admin/trends?days=${days}`), call("GET", `/v1/admin/accounts?days=${days}`),
      call("GET", "/v1/admin/appeals"), call("GET", "/v1/admin/feedback"), call("GET", "/v1/admin/audit"),
    ]);
    accounts = listed.accounts;
    showTrends(trends);
    showAccounts();
    $("appeals").replaceChildren(...(appeals.appeals.length ? appeals.appeals.map(appeal) : [make("li", { class: "muted" }, "There are none.")]));
    $("feedback-list").replaceChildren(...(feedback.feedback.length ? feedback.feedback.map(written) : [make("li", { class: "muted" }, "Nobody wrote yet.")]));
    showAudit(audit);
  } catch (problem) {
    report(problem);
  }
}

const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

function showTrends({ days, categories }) {
  const parts = days.map(({ jobs }) => {
    const refused = (jobs.request_moderated ?? 0) + (jobs.content_moderated ?? 0);
    return { done: jobs.ready ?? 0, refused, other: sum(jobs) - (jobs.ready ?? 0) - refused };
  });
  $("edits-chart").replaceChildren(bars(days, parts, "Edits a day"));
  $("signals-chart").replaceChildren(bars(days, days.map(({ signals }) => ({ signals: sum(signals) })), "Signs of misuse a day"));
  const most = Math.max(1, ...Object.values(categories));
  const shares = Object.entries(categories).map(([name, count]) => make("li", {}, make("span", {}, name),
    make("meter", { max: most, value: count, "aria-label": `${name}: ${count}` }), make("span", {}, String(count))));
  $("categories").replaceChildren(shares.length ? make("ul", { class: "shares" }, ...shares) : make("p", { class: "muted" }, "Nothing was refused."));
}

/** Bars of a day each, stacked of parts by name, with their sums said to screen readers. */
function bars(days, parts, title) {
  const [width, height, floor] = [360, 130, 112];
  const make = (tag, attributes, text = "") => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };
  const most = Math.max(1, ...parts.map(sum));
  const date = (day) => new Date(day.begins * 1000).toLocaleDateString(undefined, { month: "short", day: "numeric", timeZone: "UTC" });
  const said = days.map((day, index) => `${date(day)}: ${sum(parts[index])}`).filter((text) => !text.endsWith(": 0"));
  const chart = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${said.join(", ") || "None"}` });
  const step = width / days.length;
  days.forEach((day, index) => {
    let top = floor;
    for (const [name, count] of Object.entries(parts[index])) {
      const tall = ((floor - 16) * count) / most;
      top -= tall;
      const bar = make("rect", { class: name, x: index * step + 1, y: top, width: Math.max(2, step - 3), height: tall, rx: 1.5 });
      bar.append(make("title", {}, `${date(day)}: ${count} ${name}`));
      chart.append(bar);
    }
  });
  chart.append(make("line", { x1: 0, x2: width, y1: floor, y2: floor }), make("text", { x: 0, y: 10 }, String(most)));
  chart.append(make("text", { x: 0, y: height - 4 }, date(days[0])), make("text", { x: width, y: height - 4, "text-anchor": "end" }, "today"));
  return chart;
}

function showAccounts() {
  const wanted = $("find").value.trim().toLowerCase();
  const shown = accounts.filter(({ name, standing }) => `${name} ${standing}`.toLowerCase().includes(wanted));
  $("accounts").replaceChildren(...shown.map((account) => {
    const until = account.standing_until ? ` until ${when(account.standing_until)}` : "";
    const standing = make("div", {}, make("span", { class: `badge ${STANDING[account.standing]}` }, account.standing),
      account.standing_reason ? make("div", { class: "muted hint" }, account.standing_reason + until) : "");
    const name = make("div", {}, make("b", {}, account.name), make("div", { class: "muted hint" }, `${account.role}, ${account.keys} ${account.keys === 1 ? "key" : "keys"}`));
    const refused = account.edits ? `${account.refused} (${Math.round((100 * account.refused) / account.edits)}%)` : "0";
    const signs = make("div", {}, signsOf(account), ...account.end_users.map((one) => endUser(account, one)));
    const decide = make("button", { type: "button", "aria-label": `Decide about ${account.name}`, onclick: () => decideStanding(account) }, "Decide…");
    return row(name, standing, [String(account.edits), "number"], [refused, "number"], signs,
      account.credit === null ? "unlimited" : [String(account.credit), "number"], when(account.last_used), decide);
  }));
}

const signsOf = ({ signals }) => Object.entries(signals).map(([kind, count]) => `${kind}: ${count}`).join(", ") || "none";

/** One of those whom an account edits for; only an id stands for them. */
function endUser(account, one) {
  const name = `end user ${one.id.slice(0, 12)}`;
  const reason = one.standing_reason ? ` (${one.standing_reason})` : "";
  return make("div", { class: "muted hint" }, `${name}: ${signsOf(one)}; ${one.standing}${reason} `,
    make("button", { type: "button", "aria-label": `Decide about ${name}`, onclick: () => decideStanding(account, one) }, "Decide…"));
}

function appeal(one) {
  const state = one.decided ? make("span", { class: `badge ${one.granted ? "good" : "bad"}` }, one.granted ? "granted" : "rejected") : make("span", { class: "badge wait" }, "open");
  const outcome = one.decided ? make("p", { class: "muted" }, `${one.decided_by}, ${when(one.decided)}: ${one.reason}`)
    : make("div", {}, make("button", { type: "button", onclick: () => decideAppeal(one) }, "Decide…"));
  return make("li", {}, make("div", {}, make("b", {}, one.account), " ", state, make("span", { class: "muted" }, ` ${one.standing}${one.standing_reason ? `: ${one.standing_reason}` : ""} · ${when(one.created)}`)),
    make("p", {}, one.text), outcome);
}

function written(one) {
  const about = [one.account ?? "unknown", one.contact, one.job_id && `edit ${one.job_id.slice(0, 8)}`, when(one.created)].filter(Boolean).join(" · ");
  return make("li", {}, make("div", {}, make("span", { class: `badge ${one.kind === "harmful result" ? "bad" : ""}` }, one.kind), make("span", { class: "muted" }, ` ${about}`)), make("p", {}, one.text));
}

function showAudit({ entries, broken_at: broken }) {
  $("audit-state").className = broken === null ? "muted" : "bad-text";
  $("audit-state").textContent = broken === null ? "Every row seals the one before it; none was changed." : `It was changed at row ${broken}.`;
  $("audit").replaceChildren(...entries.map((entry) => row([String(entry.number), "number"], when(entry.at), entry.actor, entry.action, entry.subject, [details(entry.detail), "long"])));
}

/** Ask for a reason, then send the decision that a button stands for. */
async function decide(title, about, buttons, path, json) {
  $("decide-title").textContent = title;
  $("decide-about").textContent = about;
  $("reason").value = "";
  $("decide-actions").replaceChildren(...buttons, make("button", { type: "submit", value: "", formNoValidate: true }, "Cancel"));
  const value = await ask($("decide"));
  if (!value) return;
  try {
    await call("POST", path, { json: json(value) });
    tell("Your decision is kept.", "good");
    await load();
  } catch (problem) {
    report(problem);
  }
}

function decideStanding(account, endUser = null) {
  const { standing, standing_reason: why } = endUser ?? account;
  $("decide-standing").hidden = false;
  $("standing").value = standing;
  showDays();
  const apply = make("button", { type: "submit", class: "primary", value: "apply" }, "Apply");
  const whom = endUser ? `end user ${endUser.id.slice(0, 12)} of ${account.name}` : account.name;
  return decide(`Decide about ${whom}`, `Now: ${standing}${why ? ` (${why})` : ""}`, [apply],
    `/v1/admin/accounts/${account.id}/standing`, () => ({
      standing: $("standing").value, reason: $("reason").value.trim(), end_user: endUser?.id ?? null,
      days: $("standing").value === "suspended" && $("lasts").value ? Number($("lasts").value) : null,
    }));
}

function decideAppeal(one) {
  $("decide-standing").hidden = true;
  const grant = make("button", { type: "submit", class: "primary", value: "grant" }, "Grant: restore the account");
  const reject = make("button", { type: "submit", class: "danger", value: "reject" }, "Reject");
  return decide(`Appeal of ${one.account}`, one.text, [grant, reject], `/v1/admin/appeals/${one.id}/decision`,
    (value) => ({ grant: value === "grant", reason: $("reason").value.trim() }));
}

function showDays() {
  $("decide-days").hidden = $("standing").value !== "suspended";
}

$("days").addEventListener("change", load);
$("reload").addEventListener("click", load);
$("find").addEventListener("input", showAccounts);
$("standing").addEventListener("change", showDays);
await start();
if (session.me && hasRole("admin")) await load();
document.body.dataset.ready = "true";
