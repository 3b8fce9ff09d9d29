// The page of one task of one run: a list of documents with filters, and one document beside it.
const AT_ONCE = 200; // rows that are shown before "more"
const documents = data.documents, peers = new Map(data.peers.map((peer) => [peer.id, peer]));
const state = { show: "all", against: "", sort: "", query: "", doc: "" };
let fits = [], limit = AT_ONCE, place = null;

const short = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));
const isRight = (value) => data.top !== null && value === data.top;
const isWrong = (value) => data.top !== null && value !== null && value !== data.top;
const other = (i) => peers.get(state.against)?.values[i] ?? null;
const better = (i) => (other(i) === null || documents[i].v === null ? null : Math.sign(data.sign * (documents[i].v - other(i))));

// name -> [what it is called, which documents it shows]
function filters() {
  const found = { all: ["all documents", () => true] };
  if (data.top !== null) {
    found.right = ["right", (i) => isRight(documents[i].v)];
    found.wrong = ["wrong", (i) => isWrong(documents[i].v)];
  }
  found.error = ["errors", (i) => documents[i].e !== undefined];
  if (state.against) {
    found.lost = ["lost against the other", (i) => better(i) === -1];
    found.won = ["won against the other", (i) => better(i) === 1];
    if (data.top !== null) {
      found.bothright = ["both right", (i) => isRight(documents[i].v) && isRight(other(i))];
      found.bothwrong = ["both wrong", (i) => isWrong(documents[i].v) && isWrong(other(i))];
    }
  }
  return found;
}

const SORTS = {
  "": ["as in the file", null], score: ["lowest score", (i) => documents[i].v], "-score": ["highest score", (i) => documents[i].v],
  "-forwards": ["most forwards", (i) => documents[i].f], forwards: ["fewest forwards", (i) => documents[i].f],
  "-tokens": ["most tokens", (i) => documents[i].tok], margin: ["lowest margin", (i) => documents[i].m], "-margin": ["highest margin", (i) => documents[i].m],
};

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) addText(made, text);
  return made;
}

function textOf(row) {
  row.search ??= [row.n, row.p, row.q, row.t, ...(row.a ?? []), ...(row.c ?? []), row.e, ...(row.x ?? [])].join("\n").toLowerCase();
  return row.search;
}

// -- the list ---------------------------------------------------------------------------------------

function fill(select, entries, value) {
  select.replaceChildren(...entries.map(([key, label]) => {
    const option = element("option", label);
    option.value = key;
    return option;
  }));
  select.value = value;
}

function show() {
  const known = filters();
  if (!known[state.show]) state.show = "all";
  const numbers = documents.map((_, i) => i);
  fill(at("show"), Object.entries(known).map(([key, [label, test]]) => [key, `${label} (${numbers.filter(test).length})`]), state.show);
  fill(at("sort"), Object.entries(SORTS).filter(([, [, of]]) => !of || numbers.some((i) => typeof of(i) === "number")).map(([key, [label]]) => [key, label]), state.sort);
  if (at("against")) at("against").value = state.against;
  at("query").value = state.query;
  const query = state.query.toLowerCase(), test = known[state.show][1];
  fits = numbers.filter((i) => test(i) && (!query || textOf(documents[i]).includes(query)));
  const of = SORTS[state.sort]?.[1], sign = state.sort.startsWith("-") ? -1 : 1;
  if (of) fits.sort((i, j) => ((of(i) ?? null) === null) - ((of(j) ?? null) === null) || sign * (of(i) - of(j)) || i - j);
  limit = AT_ONCE;
  at("other").hidden = !state.against;
  const shared = numbers.filter((i) => better(i) !== null).length;
  at("count").textContent = `${fits.length} of ${documents.length} documents` + (state.against ? `; ${shared} have a score in both runs` : "");
  list();
  const asked = documents.findIndex((row) => row.k === state.doc);
  open(asked >= 0 ? asked : fits[0] ?? null, asked >= 0);
}

function list() {
  at("documents").tBodies[0].replaceChildren(...fits.slice(0, limit).map(listed));
  at("more").hidden = fits.length <= limit;
  at("more").textContent = `${fits.length - limit} more`;
  mark();
}

function scored(value, row = null) {
  if (row?.e !== undefined) return element("span", "error", "wrong");
  if (value === null || value === undefined) return element("span", "–");
  if (data.top === null) return element("span", short(value));
  return isRight(value) ? element("span", "✓ right", "right") : element("span", "✗ wrong", "wrong");
}

function excerpt(row) {
  if (row.e !== undefined) return row.e;
  if (row.w !== undefined) return row.c?.[Number(row.w.slice(7))] || row.w;
  return row.r ?? row.a?.[0] ?? "";
}

function listed(i) {
  const row = documents[i], line = element("tr"), link = element("a", String(row.n ?? i));
  line.dataset.number = i;
  link.href = "#" + written({ doc: row.k });
  const number = element("td", "", "number");
  number.append(link);
  const own = element("td"), theirs = element("td"), cost = element("td", short(row.f), "number");
  own.append(scored(row.v, row));
  theirs.append(scored(other(i)));
  theirs.hidden = !state.against;
  const text = element("td", (excerpt(row) ?? "").slice(0, 200), "excerpt");
  text.dir = "auto";
  line.append(number, own, theirs, cost, text);
  line.addEventListener("click", (event) => { event.preventDefault(); choose(i); });
  return line;
}

function mark() {
  for (const line of at("documents").tBodies[0].rows) line.setAttribute("aria-selected", String(Number(line.dataset.number) === place));
}

// -- one document -----------------------------------------------------------------------------------

function block(title, text) {
  const found = [element("h3", title)];
  if (text === undefined || text === null) found.push(element("p", "not shown", "hidden-text"));
  else {
    const shown = element("div", text || "(empty)", text ? "text" : "hidden-text");
    shown.dir = "auto";
    shown.tabIndex = text ? 0 : -1;
    found.push(shown);
  }
  return found;
}

function facts(i) {
  const row = documents[i];
  return [
    row.v === null ? "" : `score ${short(row.v)}`, row.f === undefined ? "" : `${short(row.f)} forwards`, row.tok === undefined ? "" : `${row.tok} tokens`,
    row.x ? `ended: ${row.x.join(", ")}` : "", row.st ? `exit step ${row.st.join(", ")}` : "", row.sec === undefined ? "" : `${short(row.sec)} s`,
    row.m === undefined ? "" : `margin ${short(row.m)} nats` + (row.me ? ` ± ${short(row.me)}` : ""),
  ].filter(Boolean).join(" · ");
}

function choices(row) {
  const shown = element("ul", "", "choices"), best = Number(row.w?.slice(7)), gold = data.texts === "all" ? Number(row.t) : NaN;
  (row.a ?? []).forEach((value, k) => {
    const item = element("li", "", k === gold ? "gold" : "");
    const text = element("span", row.c?.[k] ?? `choice ${k}`);
    text.dir = "auto";
    const [number, greedy] = value.split(" ");
    item.append(element("span", number, "value"), element("span", [k === best ? "chosen" : "", k === gold ? "target" : "", greedy === "True" ? "greedy" : ""].filter(Boolean).join(", "), "said"), text);
    shown.append(item);
  });
  return [element("h3", "log-probability of each choice, in nats"), shown];
}

function against(i) {
  const found = [];
  for (const peer of data.peers) {
    const value = peer.values[i] ?? null;
    if (value === null) continue;
    const item = element("li"), link = element("a", peer.label);
    link.href = `${peer.id}.html#doc=${encodeURIComponent(documents[i].k)}`;
    item.append(scored(value), " ", link);
    found.push(item);
  }
  if (!found.length) return [];
  const shown = element("details"), items = element("ul");
  items.append(...found);
  shown.open = found.length <= 4;
  shown.append(element("summary", `this document in other runs (${found.length})`), items);
  return [shown];
}

function open(i, reading) {
  place = i;
  document.body.classList.toggle("reading", reading && i !== null);
  at("link").href = "#" + written();
  mark();
  if (i === null) { at("document").replaceChildren(element("p", "no document", "hidden-text")); return; }
  const row = documents[i], title = element("h2", `document ${row.n ?? i}${data.top === null && row.e === undefined ? ", score" : ""} `);
  title.append(scored(row.v, row));
  const parts = [title, element("p", facts(i), "facts")];
  if (row.e !== undefined) parts.push(...block("error", row.e));
  parts.push(...block("prompt", row.p));
  if (row.q) parts.push(...block("text after the hole", row.q));
  if (data.generated) {
    const answers = row.a ?? [], traces = data.traces[i];
    answers.forEach((text, k) => {
      parts.push(...block(answers.length > 1 ? `answer ${k + 1}` : "answer", text));
      if (traces?.[k]) parts.push(...trace(traces[k]));
    });
    if (row.r !== undefined) parts.push(...block("scored text, after the filter", row.r));
    parts.push(...block("target", row.t));
  } else {
    parts.push(...choices(row));
    if (!row.c || row.c.length < 2) parts.push(...block("target", row.t));
  }
  parts.push(...against(i));
  at("document").replaceChildren(...parts);
  at("one").scrollTop = 0;
}

// The order of writing: a strip with one field for each token, and the text at each step.
function trace(found) {
  const steps = [...new Set(found.s.filter((step) => step >= 0))].sort((a, b) => a - b);
  const last = Math.max(1, steps[steps.length - 1] ?? 1);
  const strip = element("div", "", "strip"), shown = element("div", "", "trace"), row = element("div", "", "row trace-row");
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", `order of writing of ${found.s.length} tokens in ${steps.length} steps`);
  for (const [p, step] of found.s.entries()) {
    const field = element("i", "", step < 0 ? "open" : "");
    field.style.setProperty("--v", Math.max(0, step) / last);
    field.title = step < 0 ? "left open" : `${found.x ? JSON.stringify(found.x[p]) : "token " + p}: step ${step}, confidence ${percent(found.c[p])}`;
    strip.append(field);
  }
  const legend = element("span", "first step ", "legend");
  legend.append(element("i"), " last step");
  const parts = [element("h3", "order of writing, by the step of each token's last commit"), strip, legend];
  if (!found.x) return parts;
  const slider = element("input"), where = element("output");
  Object.assign(slider, { type: "range", min: 0, max: steps.length, value: steps.length, ariaLabel: "step" });
  const at_step = (count) => {
    const now = count ? steps[count - 1] : -1;
    where.textContent = count ? `step ${now} (${count} of ${steps.length})` : "start";
    shown.replaceChildren(...found.x.map((text, p) => {
      const step = found.s[p], here = step >= 0 && step <= now;
      const token = element("span", "", here ? "token" : "mask");
      if (here) { token.style.setProperty("--v", step / last); addText(token, text); }
      if (here && step === now && count < steps.length) token.classList.add("new");
      return token;
    }));
  };
  slider.addEventListener("input", () => at_step(Number(slider.value)));
  shown.dir = "auto";
  at_step(steps.length);
  row.append(slider, where);
  return [...parts, row, shown];
}

// -- the address ------------------------------------------------------------------------------------

function written(more = {}) {
  const words = new URLSearchParams(), now = { ...state, ...more };
  for (const key of ["show", "against", "sort", "query", "doc"]) if (now[key] && !(key === "show" && now[key] === "all")) words.set(key, now[key]);
  return words.toString();
}

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const key of ["show", "against", "sort", "query", "doc"]) state[key] = words.get(key) ?? "";
  if (!peers.has(state.against)) state.against = "";
  if (!SORTS[state.sort]) state.sort = "";
  state.show ||= "all";
  show();
}

function change(more) {
  Object.assign(state, { doc: "" }, more);
  window.history.replaceState(null, "", "#" + written());
  show();
}

function choose(i) {
  state.doc = documents[i].k;
  window.history.replaceState(null, "", "#" + written());
  open(i, true);
}

function move(by) {
  const now = fits.indexOf(place), next = fits[Math.min(fits.length - 1, Math.max(0, now + by))];
  if (next === undefined) return;
  if (fits.indexOf(next) >= limit) { limit += AT_ONCE; list(); }
  choose(next);
  at("documents").querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
}

at("show").addEventListener("change", () => change({ show: at("show").value }));
at("sort").addEventListener("change", () => change({ sort: at("sort").value }));
at("against")?.addEventListener("change", () => change({ against: at("against").value }));
at("query").addEventListener("input", () => change({ query: at("query").value }));
at("more").addEventListener("click", () => { limit += AT_ONCE; list(); });
at("previous").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("back").addEventListener("click", () => change({ doc: "" }));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") { document.activeElement.blur(); change({ doc: "" }); }
  if (event.target.closest("input, select")) return;
  const slider = at("document").querySelector("input[type=range]");
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "/") at("query").focus();
  else if (slider && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    slider.value = Number(slider.value) + (event.key === "ArrowLeft" ? -1 : 1);
    slider.dispatchEvent(new Event("input"));
  } else return;
  event.preventDefault();
});
window.addEventListener("hashchange", read);
read();
