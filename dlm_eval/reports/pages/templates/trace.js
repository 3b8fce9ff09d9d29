// The page of `dlm-eval trace`: replays the recorded steps up to the one that the slider is at.
const last = data.steps.length;
const hole = new Set(data.open);
let shown = last, chosen = null, timer = null;

const quoted = (id) => JSON.stringify(data.pieces[id].text);

// What happened at each position, in order: {k, id, confidence} where another token was written, {k, id: null} where it was masked again. A step
// that writes the same token once more only changes its confidence: `later` has {k, confidence}.
const history = data.start.map(() => []);
const changes = data.steps.map((step, k) => {
  let changed = 0;
  step.erased.forEach((p) => history[p].push({ k, id: null }));
  step.written.forEach((p, i) => {
    const id = step.tokens[i], confidence = step.confidence[i], before = history[p][history[p].length - 1];
    if (before && before.id === id) { before.later.push({ k, confidence }); return; }
    history[p].push({ k, id, confidence, later: [] });
    changed += 1;
  });
  return changed;
});

function stateOf(p, count) { // what stands at p after `count` steps
  const past = history[p].filter((event) => event.k < count);
  const now = past[past.length - 1];
  const before = past.slice(0, -1).some((event) => event.id !== null);
  return { now, rewritten: before && now.id !== null, fresh: now && now.k === count - 1 };
}

function confidenceOf(event, count) { // the latest before step `count`
  const later = event.later.filter((again) => again.k < count);
  return later.length ? later[later.length - 1].confidence : event.confidence;
}

function tokenSpan(p, count) {
  const span = document.createElement("span");
  span.dataset.position = p;
  if (!hole.has(p)) {
    span.className = "given";
    addText(span, data.pieces[data.start[p]].text);
    return span;
  }
  const { now, rewritten, fresh } = stateOf(p, count);
  const written = now && now.id !== null;
  span.className = written ? "token" : "mask";
  if (fresh) span.classList.add(written ? "new" : "erased");
  if (rewritten) span.classList.add("rewritten");
  if (written) {
    const piece = data.pieces[now.id];
    if (piece.special) span.classList.add("special");
    const value = at("canvas").dataset.colour === "confidence" ? confidenceOf(now, count) : now.k / Math.max(1, last - 1);
    span.style.setProperty("--v", value === null ? 0 : value);
    addText(span, piece.text);
  }
  if (p === chosen) span.classList.add("chosen");
  return span;
}

function again(event) {
  const end = event.later[event.later.length - 1];
  return end ? ` (kept until step ${data.steps[end.k].step}, then ${percent(end.confidence)})` : "";
}

function describe() {
  if (chosen === null) { at("details").textContent = "point at a token, or press j, for its history"; return; }
  if (!hole.has(chosen)) { at("details").textContent = `position ${chosen}: ${quoted(data.start[chosen])}, given`; return; }
  const events = history[chosen].map((event) => event.id === null
    ? `masked again in step ${data.steps[event.k].step}`
    : `${quoted(event.id)} (id ${event.id}) in step ${data.steps[event.k].step}, confidence ${percent(event.confidence)}` + again(event));
  at("details").textContent = `position ${chosen}: ` + (events.join(" → ") || "never written");
}

function whereText(count) {
  if (count === 0) return `start: ${data.open.length} open`;
  const step = data.steps[count - 1];
  const replaced = step.replaced.length, written = changes[count - 1] - replaced, kept = step.written.length - changes[count - 1];
  const parts = [];
  if (written || !(replaced || kept)) parts.push(`${written} written`);
  if (replaced) parts.push(`${replaced} replaced`);
  if (kept) parts.push(`${kept} kept`);
  if (step.erased.length) parts.push(`${step.erased.length} masked again`);
  return `step ${step.step} (${count} of ${last}): ${parts.join(", ")}`;
}

function show(count) {
  shown = Math.min(last, Math.max(0, count));
  at("canvas").replaceChildren(...data.start.map((_, p) => tokenSpan(p, shown)));
  at("slider").value = shown;
  at("where").textContent = whereText(shown);
  at("slider").setAttribute("aria-valuetext", at("where").textContent);
  at("previous").disabled = shown === 0;
  at("next").disabled = shown === last;
  [...at("bars").children].forEach((bar, k) => bar.classList.toggle("past", k < shown));
}

function colourBy(what) {
  at("canvas").dataset.colour = what;
  document.body.classList.toggle("confidence", what === "confidence");
  at("least").textContent = what === "confidence" ? "0 %" : "first step";
  at("most").textContent = what === "confidence" ? "100 %" : "last step";
  document.querySelector(`input[name=colour][value=${what}]`).checked = true;
  show(shown);
}

function play(on) {
  clearInterval(timer);
  timer = null;
  at("play").textContent = on ? "stop" : "play";
  if (!on) return;
  if (shown === last) show(0);
  timer = setInterval(() => { show(shown + 1); if (shown === last) play(false); }, Math.max(60, Math.min(600, 15000 / Math.max(1, last))));
}

function choose(p) {
  chosen = Math.min(data.start.length - 1, Math.max(0, p));
  document.querySelector(".chosen")?.classList.remove("chosen");
  document.querySelector(`[data-position="${chosen}"]`).classList.add("chosen");
  describe();
}

const KEYS = {
  j: () => choose(chosen === null ? data.open[0] : chosen + 1), k: () => choose(chosen === null ? data.open[0] : chosen - 1),
  ArrowLeft: () => show(shown - 1), ArrowRight: () => show(shown + 1), Home: () => show(0), End: () => show(last),
  " ": () => play(timer === null), c: () => colourBy(at("canvas").dataset.colour === "step" ? "confidence" : "step"),
};

function start() {
  const filling = data.filling;
  at("model").textContent = data.model;
  at("facts").textContent = [
    `strategy ${data.settings.strategy}`, `${data.open.length} open positions`, `${filling.steps} steps`, `${filling.forwards} forwards`,
    `ended: ${filling.exit}`, `seed ${data.seed}`,
  ].join(" · ");
  for (const [key, value] of Object.entries(data.settings)) {
    const term = document.createElement("dt"), entry = document.createElement("dd");
    term.textContent = key;
    entry.textContent = JSON.stringify(value);
    at("settings").append(term, entry);
  }
  const most = Math.max(1, ...changes);
  at("bars").classList.toggle("dense", last > 300);
  at("bars").replaceChildren(...changes.map((changed) => {
    const bar = document.createElement("i");
    bar.style.setProperty("--v", changed / most);
    return bar;
  }));
  at("key-erased").hidden = data.steps.every((step) => step.erased.length === 0);
  at("key-rewritten").hidden = history.every((events) => events.filter((event) => event.id !== null).length < 2);
  at("slider").max = last;
  at("slider").addEventListener("input", () => { play(false); show(Number(at("slider").value)); });
  at("previous").addEventListener("click", () => show(shown - 1));
  at("next").addEventListener("click", () => show(shown + 1));
  at("play").addEventListener("click", () => play(timer === null));
  for (const radio of document.querySelectorAll("input[name=colour]")) radio.addEventListener("change", () => colourBy(radio.value));
  for (const kind of ["pointerover", "click"]) {
    at("canvas").addEventListener(kind, (event) => {
      const span = event.target.closest("[data-position]");
      if (span && Number(span.dataset.position) !== chosen) choose(Number(span.dataset.position));
    });
  }
  document.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " " && event.target.closest("button, input, summary")) return; // they have a meaning for it of their own
    event.preventDefault();
    if (event.key.length > 1) play(false);
    act();
  });
  window.addEventListener("hashchange", showAsked);
  showAsked();
  describe();
}

function showAsked() {
  const asked = new URLSearchParams(location.hash.slice(1)); // #step=3&colour=confidence
  colourBy(asked.get("colour") === "confidence" ? "confidence" : "step");
  show(asked.has("step") ? Number(asked.get("step")) || 0 : last);
}

start();
