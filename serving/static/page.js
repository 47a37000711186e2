// The search page. What comes from documents is shown as text and never read as markup: textContent only.
"use strict";

const PAGE = 10, MOST = 100;
const WHOLE = "[whole text]";  // the token that a query's own vector is told as
const FORMS = {  // for each kind of column: what can be asked, and the expression that asks it
  compare: [["==", "is"], ["!=", "is not"], ["<", "below"], ["<=", "at most"], [">", "above"], [">=", "at least"]],
  text: [["==", "is"], ["!=", "is not"], ["prefix", "begins with"], ["in", "is one of (a, b, …)"]],
  boolean: [["true", "is true"], ["false", "is false"]],
  every: [["is_null", "has no value"], ["value", "has a value"]],
};
// typed: the filter that came from a link or was typed; conditions are added to it.
const state = { k: PAGE, columns: [], answer: null, pinned: null, asking: null, typed: "" };
const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// ---- the server

async function request(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  const answer = await response.json().catch((error) => {
    if (response.ok || error.name === "AbortError") throw error;
    return {};  // a refusal that is not the server's own
  });
  if (response.status === 401) {
    byId("entry").hidden = false;
    byId("key").focus();
    throw new Error(key ? "that key is not valid." : "a key is needed.");
  }
  if (!response.ok) throw new Error(answer.message || response.statusText || `status ${response.status}`);
  return answer;
}

function tell(text) { byId("status").textContent = text; }

async function describe() {
  const [index, columns] = await Promise.all([request("v1/index"), request("v1/columns")]);
  state.columns = columns.columns;
  byId("entry").hidden = true;
  const counted = index.documents === null ? "" :
    `${index.documents.toLocaleString("en")} documents, ${index.passages.toLocaleString("en")} passages, `;
  return `${counted}version ${index.version}` +
    (index.set_aside ? ` · a newer version is set aside: ${index.set_aside}` : "");
}

async function search() {
  const query = byId("query").value.trim();
  if (!query) return;
  const filter = readExpression();
  const shared = new URLSearchParams({ q: query });
  if (filter) shared.set("filter", JSON.stringify(filter));
  const by = byId("ranked").value, hybrid = by ? { by } : null;
  if (by) shared.set("hybrid", by);
  history.replaceState(null, "", `?${shared}`);
  state.asking?.abort();
  state.asking = new AbortController();
  tell("Searching…");
  const answer = await request("v1/search", { query, k: state.k, filter, hybrid, explain: true }, state.asking.signal);
  state.answer = answer;
  state.pinned = null;
  show(query, answer);
}

// ---- what was found

function show(query, answer) {
  const characters = Array.from(query), words = joinWords(answer.explanation.query, characters);
  const strongest = Math.max(1e-9, ...answer.explanation.hits.flatMap((hit) => ofWords(hit).map((match) => match.weight)));
  byId("words").replaceChildren(...words.map(wordButton));
  byId("words").hidden = !words.length || !answer.hits.length;
  byId("hits").replaceChildren(...answer.hits.map((hit, at) => card(hit, at, answer.explanation.hits[at], strongest, words)));
  byId("hits").classList.remove("focused");
  byId("more").hidden = answer.hits.length < state.k || state.k >= MOST;
  const times = [["waited", answer.queue_ms], ["encoded", answer.encode_ms], ["searched and explained", answer.search_ms]];
  const spent = times.filter(([, ms]) => ms !== undefined).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`);
  tell(`${answer.hits.length} passages from version ${answer.version} · ${spent.join(", ")} · ` +
    `${answer.scored.toLocaleString("en")} scored`);
}

// What the words of the question matched, each with its place among the question's tokens. The vector of the whole
// question is no word, and outweighs them all.
function ofWords(explained) {
  const tokens = state.answer.explanation.query;
  return explained.matches.map((match, token) => ({ ...match, token })).filter((match) => tokens[match.token]?.token !== WHOLE);
}

// Tokens that touch or overlap are one word; those of the encoder itself are none. A tokenizer of bytes gives a word's
// first token the blank before it, and all tokens of one character its whole span.
function joinWords(tokens, characters) {
  const words = [];
  tokens.forEach((token, at) => {
    if (token.start === null) return;
    let start = token.start;
    while (start < token.end && !characters[start]?.trim()) start += 1;
    if (start === token.end) return;
    const last = words.at(-1);
    if (last && start <= last.end) { last.end = Math.max(last.end, token.end); last.tokens.push(at); }
    else words.push({ start, end: token.end, tokens: [at] });
  });
  for (const word of words) word.text = characters.slice(word.start, word.end).join("").trim();
  return words.filter((word) => word.text);
}

function wordButton(word) {
  const button = element("button", word.text);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const now = () => highlight(word.tokens, button), back = () => highlight(state.pinned?.tokens, state.pinned?.button);
  // A finger enters and leaves with each touch, and rests on nothing: there a touch pins.
  button.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") now(); });
  button.addEventListener("focus", now);
  button.addEventListener("pointerleave", back);
  button.addEventListener("blur", back);
  button.addEventListener("click", () => {
    const release = state.pinned?.button === button;
    for (const other of byId("words").children) other.setAttribute("aria-pressed", String(other === button && !release));
    state.pinned = release ? null : { tokens: word.tokens, button };
    back();
  });
  return button;
}

function highlight(tokens, button) {
  for (const other of byId("words").children) other.classList.toggle("shown", other === button);
  byId("hits").classList.toggle("focused", Boolean(tokens));
  for (const mark of document.querySelectorAll("mark")) {
    const own = mark.dataset.tokens.split(" ").map(Number);
    mark.classList.toggle("matched", Boolean(tokens) && own.some((one) => tokens.includes(one)));
  }
}

function card(hit, at, explained, strongest, words) {
  const made = element("li"), head = element("h2", `${at + 1}. `), text = element("p", undefined, "text");
  head.append(...shaded(hit.title || hit.document_id, hit.title ? "title" : null, explained, strongest, words));
  const whole = state.answer.explanation.query.findIndex((token) => token.token === WHOLE);
  const ofWhole = whole < 0 ? "" : `, ${explained.matches[whole].weight.toFixed(2)} of it for the question as a whole`;
  const facts = [hit.document_id, ...scores(hit, ofWhole), `characters ${hit.start}–${hit.end}`];
  for (const [name, value] of Object.entries(hit.metadata)) {
    facts.push(`${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  }
  if (explained.pooled) facts.push("words share vectors: all that share one are marked");
  if (explained.note) facts.push(explained.note);
  text.append(...shaded(hit.text, "text", explained, strongest, words));
  made.append(head, element("div", facts.join(" · "), "facts"), text);
  return made;
}

// Of a hybrid search, what each side says; the shades are MaxSim's, and so is the part of the whole question.
function scores(hit, ofWhole) {
  if (!hit.fused) return [`score ${hit.score.toFixed(2)}${ofWhole}`];
  const { maxsim, maxsim_rank, bm25, bm25_rank } = hit.fused;
  const side = (name, score, rank) => `${name} ${score.toFixed(2)}${rank ? ` (rank ${rank})` : ""}`;
  return [`score ${hit.score.toFixed(4)}`, side("MaxSim", maxsim, maxsim_rank) + ofWhole, side("BM25", bm25, bm25_rank)];
}

// A text in pieces, those that the question matched in a mark as strong as what they weigh.
function shaded(text, field, explained, strongest, words) {
  const characters = Array.from(text);  // spans count code points, JavaScript's strings do not
  const spans = ofWords(explained).flatMap(({ spans, token, weight }) => spans
    .filter((span) => span.field === field).map((span) => ({ ...span, token, weight })));
  const edges = [...new Set([0, characters.length, ...spans.flatMap((span) => [span.start, span.end])])]
    .filter((edge) => edge <= characters.length).sort((a, b) => a - b);
  return edges.slice(1).map((end, at) => {
    const start = edges[at], piece = characters.slice(start, end).join("");
    const over = spans.filter((span) => span.start <= start && span.end >= end);
    if (!over.length) return document.createTextNode(piece);
    const mark = element("mark", piece), weight = Math.max(...over.map((span) => span.weight));
    mark.dataset.tokens = over.map((span) => span.token).join(" ");
    mark.style.setProperty("--share", (0.75 * Math.max(0, weight / strongest) ** 2).toFixed(3));
    mark.title = over.map((span) => `${wordOf(span.token, words)} ${span.weight.toFixed(2)}`).join(", ");
    return mark;
  });
}

function wordOf(token, words) {
  return words.find((word) => word.tokens.includes(token))?.text ?? state.answer.explanation.query[token]?.token ?? "";
}

// ---- the filter

function addCondition() {
  const row = element("div", undefined, "condition"), column = element("select"), form = element("select");
  const value = element("input"), remove = element("button", "✕");
  column.ariaLabel = "Column";
  form.ariaLabel = "Condition";
  value.ariaLabel = "Value";
  remove.ariaLabel = "Remove this condition";
  remove.type = "button";
  column.append(...state.columns.map((one) => new Option(one.name, one.name)));
  const offer = () => {
    const kind = kindOf(column.value);
    const forms = kind === "text" ? FORMS.text : kind === "boolean" ? FORMS.boolean : kind === "other" ? [] : FORMS.compare;
    form.replaceChildren(...[...forms, ...FORMS.every].map(([op, label]) => new Option(label, op)));
    value.type = { number: "number", date: "date", time: "datetime-local" }[kind] || "text";
    value.step = "any";
    ask();
  };
  const ask = () => { value.hidden = ["is_null", "value", "true", "false"].includes(form.value); writeExpression(); };
  column.addEventListener("change", offer);
  form.addEventListener("change", ask);
  value.addEventListener("input", writeExpression);
  remove.addEventListener("click", () => { row.remove(); writeExpression(); });
  row.append(column, form, value, remove);
  byId("conditions").append(row);
  offer();
  column.focus();
}

function kindOf(name) {
  const kinds = state.columns.find((one) => one.name === name)?.kinds ?? [];
  return kinds.length === 1 ? kinds[0] : "other";
}

function condition(row) {
  const [column, form, value] = [...row.children].map((child) => child.value), op = form;
  const typed = (text) => (kindOf(column) === "number" ? Number(text) : text);
  if (op === "is_null") return { op, column };
  if (op === "value") return { op: "not", filter: { op: "is_null", column } };
  if (op === "true" || op === "false") return { op: "==", column, value: op === "true" };
  if (op === "in") {
    const values = value.split(",").map((part) => part.trim()).filter(Boolean);
    return values.length ? { op, column, values } : null;
  }
  return value === "" ? null : { op, column, value: typed(value) };
}

// The conditions beside what was typed, which stays as it is; where that is not JSON nothing can stand beside it.
function writeExpression() {
  const filters = [...byId("conditions").children].map(condition).filter(Boolean);
  const typed = parsed(state.typed);
  if (typed === undefined) return;
  if (!filters.length) return setExpression(state.typed);
  if (typed !== null) filters.unshift(typed);
  setExpression(JSON.stringify(filters.length > 1 ? { op: byId("joined").value, filters } : filters[0]));
}

function parsed(text) {
  try { return text.trim() ? JSON.parse(text) : null; } catch { return undefined; }
}

// A whole number that JavaScript would round, and so ask for another: one of JSON outside its texts.
function rounded(text) {
  const numbers = text.replace(/"(?:[^"\\]|\\.)*"/g, "").match(/[-+.\w]+/g) ?? [];
  return numbers.find((one) => /^-?\d+$/.test(one) && !Number.isSafeInteger(Number(one)));
}

function setExpression(text) {
  byId("expression").value = text;
  markFiltered();
}

// What is typed takes the place of the conditions, which would say something else beside it.
function takeTyped(text) {
  state.typed = text;
  byId("conditions").replaceChildren();
  markFiltered();
}

function markFiltered() { byId("filtered").textContent = byId("expression").value.trim() ? "· on" : ""; }

function readExpression() {
  const text = byId("expression").value.trim();
  const typed = [...document.querySelectorAll("#conditions input[type=number]:not([hidden])")].map((input) => input.value);
  const number = [...typed, state.typed, text].map(rounded).find(Boolean);
  if (number) {
    byId("filter").open = true;
    throw new Error(`the filter has ${number}, and this page rounds whole numbers beyond ±${Number.MAX_SAFE_INTEGER}: ` +
      "ask for it over HTTP or on the command line.");
  }
  try {
    return text ? JSON.parse(text) : null;
  } catch (error) {
    byId("filter").open = true;
    throw new Error(`the filter is not JSON (${error.message}).`);
  }
}

// ---- beginning

const fail = (error) => { if (error.name !== "AbortError") tell(`That did not work: ${error.message}`); };
const run = () => search().catch(fail);

async function begin() {
  const asked = new URLSearchParams(location.search);
  byId("query").value = asked.get("q") || "";
  setExpression(asked.get("filter") || "");
  takeTyped(byId("expression").value);
  byId("filter").open = Boolean(state.typed);
  byId("ranked").value = ["rank", "weight"].find((by) => by === asked.get("hybrid")) || "";
  const description = await describe();
  if (byId("query").value) await search();
  else tell(description);
}

byId("form").addEventListener("submit", (event) => { event.preventDefault(); state.k = PAGE; run(); });
byId("more").addEventListener("click", () => { state.k = Math.min(MOST, state.k + PAGE); run(); });
byId("ranked").addEventListener("change", () => { state.k = PAGE; run(); });
byId("add").addEventListener("click", addCondition);
byId("joined").addEventListener("change", writeExpression);
byId("expression").addEventListener("input", () => takeTyped(byId("expression").value));
byId("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value.trim());
  byId("key").value = "";
  begin().catch(fail);
});
byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.style.colorScheme = dark === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.style.colorScheme);
});
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName || "");
  if (event.key === "/" && !typing) { event.preventDefault(); byId("query").select(); }
  if (event.key === "Escape" && state.answer) {
    state.pinned = null;
    document.activeElement?.blur();
    highlight(undefined, undefined);
    for (const other of byId("words").children) other.setAttribute("aria-pressed", "false");
  }
});
document.documentElement.style.colorScheme = localStorage.getItem("theme") || "";
begin().catch(fail);
