// The page of a run: its id is in the path, its token in the fragment.

import { pageOf, Refused, Run } from "./relay.js";

const LONGEST_HEADING = 240; // characters of a question
const STATES = {
  queued: ["Queued", "busy"], running: ["Running", "busy"], completed: ["Completed", "good"],
  incomplete: ["Incomplete", "bad"], failed: ["Failed", "bad"], cancelled: ["Cancelled", "bad"],
};
// Languages that a script gives away; a browser then chooses fonts and a voice.
const SCRIPTS = { ko: /\p{Script=Hangul}/gu, ja: /[\p{Script=Hiragana}\p{Script=Katakana}]/gu, he: /\p{Script=Hebrew}/gu, th: /\p{Script=Thai}/gu };

const $ = (id) => document.getElementById(id);
const show = (element, shown = true) => (element.hidden = !shown);

const id = decoded(/\/runs\/([^/]+)$/.exec(location.pathname)?.[1] ?? "");
const token = decoded(location.hash.slice(1));
let run, told, view, asked = false;

addEventListener("hashchange", () => location.reload());
$("open").addEventListener("submit", open);
if (!id) ask();
else if (!token) ask("This link lacks the run's token. Open the link that was printed when the run was started, or enter the token.");
else if (!/^[!-~]+$/.test(token)) ask(`The token in this link is damaged: it holds characters that no token has.`);
else watch().catch(fail);

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Opening a run

function ask(problem = "") {
  for (const part of ["run", "kind"]) show($(part), false);
  show($("another"), Boolean(id));
  $("question").textContent = id ? "Research run" : "Open a research run";
  tell(problem);
  $("open-id").value = id;
  show($("open"));
  $(id ? "open-token" : "open-id").focus();
}

function open(event) {
  event.preventDefault();
  const given = $("open-id").value.trim();
  // A link, an agent's whole id, or the id alone.
  const link = /\/runs\/([^/#?]+)(?:#(.+))?$/.exec(given), whole = /^([\w-]+)\.([!-~]+)$/.exec(given);
  const [, ofId, ofToken] = link?.map((part) => decoded(part ?? "")) ?? whole ?? [null, given, ""];
  const address = pageOf(ofId, $("open-token").value.trim() || ofToken);
  const here = address.href === location.href;
  location.assign(address);
  if (here) location.reload();
}

function tell(problem) {
  $("problem").textContent = problem;
  show($("problem"), Boolean(problem));
}

function fail(error) {
  show($("run"), false);
  if (!(error instanceof Refused)) tell(`This page failed (${error}). Reload it.`);
  else if (error.status === 403) ask("This token does not open the run: the link is incomplete, or it belongs to another run or another relay.");
  else tell(error.status === 404 ? "The relay has deleted this run: it ended longer ago than results are kept." : error.message);
}

// Watching a run

async function watch() {
  run = new Run(id, token, onConnection);
  $("id").textContent = id;
  $("state").textContent = "Connecting…";
  show($("run"));
  told = await run.report();
  showQuestion(told);
  showView(await run.view());
  setInterval(showSeconds, 1000);
  $("cancel").addEventListener("click", () => $("confirm").showModal());
  $("confirm").addEventListener("close", () => $("confirm").returnValue === "cancel" && cancel());
  if (!isOver()) await run.follow(onEvent);
  if (!isOver()) showView(await run.view());
  await showResult();
}

const isOver = () => !["queued", "running"].includes(view.status);

function onConnection(connected) {
  const lost = connected ? "" : "The connection to the relay is lost; the run is not affected. Trying again…";
  if ($("connection").textContent !== lost) $("connection").textContent = lost; // announced once
}

function onEvent(name, data) {
  if (name === "reset") $("text").replaceChildren();
  else if (name === "status") showView({ ...view, status: data.status });
  else if (name === "output_text") {
    $("text").append(data.delta);
    show($("text"));
    show($("waiting"), false);
  } else if (name === "completed" || name === "error") {
    const { type, data: _, ...last } = data; // for other clients; the rest is the view
    showView(last);
  }
}

async function cancel() {
  asked = true;
  showState();
  try {
    const answer = await run.cancel();
    if (!isOver()) showView(answer);
  } catch (error) {
    asked = false;
    tell(`The run could not be cancelled: ${error instanceof Refused ? error.message : "the relay does not answer."} Try again.`);
    showState();
  }
}

// Showing a run

function showQuestion({ research_question: question, language }) {
  const text = typeof question === "string" ? question.trim() : "";
  const short = text.length > LONGEST_HEADING ? `${[...text].slice(0, LONGEST_HEADING).join("")}…` : text;
  $("question").textContent = short || "Research run";
  $("question").lang = languageOf(text);
  const whole = $("whole").querySelector("p");
  whole.textContent = text;
  whole.lang = languageOf(text);
  show($("whole"), short !== text || text.includes("\n"));
  const given = typeof language === "string" && /^[a-z]{2,3}(-[a-z0-9]{2,8})*$/i.test(language) ? language : "";
  $("text").lang = $("report").lang = given || languageOf(text);
}

/** Return the language that the script of most letters belongs to; "" if several languages share it. */
function languageOf(text) {
  const start = text.slice(0, 5000), letters = start.match(/\p{L}/gu)?.length ?? 0;
  return Object.keys(SCRIPTS).find((name) => (start.match(SCRIPTS[name])?.length ?? 0) * 2 > letters) ?? "";
}

function showView(newest) {
  view = newest;
  showState();
  showSeconds();
}

function showState() {
  const [word, kind] = STATES[view.status] ?? [view.status, "busy"];
  const stopping = asked && !isOver();
  const text = stopping ? "Cancelling…" : word;
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").dataset.kind = kind;
  show($("cancel"), !isOver());
  $("cancel").disabled = stopping;
  document.title = `${text} – ${$("question").textContent}`.slice(0, 100);
}

function showSeconds() {
  const until = isOver() ? Date.parse(view.updated_at) : Date.now() + run.ahead;
  const seconds = Math.max(0, Math.round((until - Date.parse(view.created_at)) / 1000));
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  const parts = hours ? [`${hours} h`, `${minutes % 60} min`] : minutes ? [`${minutes} min`, `${seconds % 60} s`] : [`${seconds} s`];
  $("seconds").textContent = Number.isFinite(seconds) ? parts.join(" ") : "";
}

async function showResult() {
  const text = view.output_text ?? "";
  if (view.status !== "completed") {
    const partial = text ? " The text is only a part." : "";
    tell(`${view.error_message ?? `The run is ${view.status}.`}${text && !/only a part/.test(view.error_message ?? "") ? partial : ""}`);
  }
  showDetails();
  showSources();
  show($("downloads"));
  $("markdown").disabled = !text;
  $("markdown").addEventListener("click", () => download(`${id}.md`, "text/markdown", markdown()));
  $("json").addEventListener("click", () => download(`${id}.json`, "application/json", `${JSON.stringify(view, null, 2)}\n`));
  show($("waiting"), !text);
  $("waiting").textContent = "There is no text.";
  $("text").textContent = text;
  $("text").lang = $("report").lang ||= languageOf(text);
  show($("text"), Boolean(text));
  if (text && !told.html) told = await run.report();
  if (told.html) {
    // Made by the relay with raw HTML turned off; besides, the page's policy lets no markup run or load anything.
    $("report").innerHTML = told.html;
    show($("report"));
    $("text").replaceChildren();
    show($("text"), false);
    // The arrow keys scroll what has the focus; not every browser gives it to wide tables and code.
    for (const box of $("report").querySelectorAll("pre, table")) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
  document.body.dataset.ready = "yes";
}

/** Return an address as a URL if it is a web page's, otherwise null. */
function webPage(address) {
  try {
    const url = new URL(address);
    return /^https?:$/.test(url.protocol) ? url : null;
  } catch {
    return null;
  }
}

const sources = () => (Array.isArray(view.sources) ? view.sources : []).filter((page) => typeof page?.url === "string");

function showSources() {
  const entries = sources().map((page) => {
    const item = document.createElement("li"), url = webPage(page.url), title = String(page.title || "").trim();
    const named = document.createElement(url ? "a" : "span");
    named.textContent = title || page.url;
    named.dir = "auto";
    if (url) Object.assign(named, { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" });
    item.append(named);
    if (title) {
      const host = document.createElement("span");
      host.className = "host";
      host.textContent = url ? ` ${url.host}` : ` ${page.url}`;
      item.append(host);
    }
    return item;
  });
  $("sources").querySelector("ol").replaceChildren(...entries);
  show($("sources"), entries.length > 0);
}

function showDetails() {
  const { response } = view, usage = view.usage ?? {};
  const number = (value) => (Number.isFinite(value) ? value.toLocaleString("en") : null);
  const reasoning = number(usage.reasoning_tokens);
  const input = number(usage.input_tokens), output = number(usage.output_tokens);
  const tokens = input && output && `${input} in, ${output} out${reasoning ? ` (${reasoning} of them reasoning)` : ""}`;
  const dollars = { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 4 };
  const rows = {
    Cost: Number.isFinite(view.cost_usd) ? view.cost_usd.toLocaleString("en", dollars) : "not known",
    Tokens: tokens || "not known",
    Model: typeof response?.model === "string" ? response.model : null,
    Started: moment(view.created_at),
    Ended: moment(view.updated_at),
    "Error code": view.error_code,
  };
  $("details").querySelector("dl").replaceChildren(...Object.entries(rows).filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt"), description = document.createElement("dd");
    term.textContent = name;
    description.append(value);
    return [term, description];
  }));
  show($("details"));
}

function moment(text) {
  const time = document.createElement("time"), when = new Date(text);
  if (Number.isNaN(when.getTime())) return null;
  time.dateTime = text;
  time.textContent = when.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
  return time;
}

// Downloads, of what the page has read

/** Return the report, with the sources that its text does not name. */
function markdown() {
  const text = view.output_text ?? "";
  const rest = sources().filter((page) => !text.includes(page.url)).map((page) => {
    const title = String(page.title || page.url).replace(/\s+/g, " ").replace(/[\\[\]<>*_`]/g, "\\$&");
    const url = webPage(page.url);
    return url ? `* [${title}](<${url.href}>)` : `* ${title}`;
  });
  return rest.length ? `${text}\n\n## Sources\n\n${rest.join("\n")}\n` : `${text}\n`;
}

function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
