// The index page: the table sorts and filters, columns are picked, and the address holds it all.
const table = at("board"), body = table.tBodies[0];
const rows = [...body.rows], order = new Map(rows.map((row, i) => [row, i]));
const buttons = [...table.tHead.querySelectorAll("button")];
const boxes = [...document.querySelectorAll("#picker input")];
const state = { query: "", measured: false, sort: "", down: false, hidden: new Set(), chart: "", a: "", b: "" };

const place = (key) => buttons.findIndex((button) => button.dataset.key === key);
const lowerFirst = (key) => data.lower[Number(key)] === true || key === "label" || key === "rank" || key.startsWith("f");

function sorted() {
  const column = place(state.sort);
  if (column < 0) return rows;
  const sign = state.down ? -1 : 1;
  const value = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.sort === undefined) return cell.textContent;
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  return [...rows].sort((one, other) => {
    const a = value(one), b = value(other);
    if (a === null || b === null) return (a === null) - (b === null) || order.get(one) - order.get(other); // none is last
    const difference = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return sign * difference || order.get(one) - order.get(other);
  });
}

function show() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = [...row.cells].filter((cell) => !cell.dataset.column).map((cell) => cell.textContent).join(" ").toLowerCase();
    const fits = words.every((word) => (word.startsWith("-") && word.length > 1 ? !text.includes(word.slice(1)) : text.includes(word)));
    row.hidden = !fits || (state.measured && row.classList.contains("published"));
    count += !row.hidden;
  }
  body.append(...sorted());
  for (const cell of table.querySelectorAll("[data-column]")) cell.hidden = state.hidden.has(data.columns[cell.dataset.column]);
  for (const button of buttons) {
    const now = button.dataset.key === state.sort ? (state.down ? "descending" : "ascending") : "none";
    button.parentElement.setAttribute("aria-sort", now);
  }
  for (const box of boxes) box.checked = !state.hidden.has(data.columns[box.dataset.column]);
  at("query").value = state.query;
  if (at("measured")) at("measured").checked = state.measured;
  at("count").textContent = count === rows.length ? "" : `${count} of ${rows.length} rows`;
  showChart();
  showLosses();
  at("link").href = "#" + written();
}

function written() {
  const words = new URLSearchParams();
  if (state.query) words.set("q", state.query);
  if (state.measured) words.set("measured", "1");
  if (state.sort) words.set("sort", (state.down ? "-" : "") + (data.columns[state.sort] ?? `:${state.sort}`));
  for (const name of state.hidden) words.append("hide", name);
  for (const key of ["chart", "a", "b"]) if (state[key]) words.set(key, state[key]);
  return words.toString();
}

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  state.query = words.get("q") ?? "";
  state.measured = words.has("measured");
  const sort = words.get("sort") ?? "";
  state.down = sort.startsWith("-");
  const name = sort.slice(state.down ? 1 : 0);
  const number = data.columns.indexOf(name);
  state.sort = number >= 0 ? String(number) : name.startsWith(":") ? name.slice(1) : "";
  state.hidden = new Set(words.getAll("hide"));
  for (const key of ["chart", "a", "b"]) state[key] = words.get(key) ?? "";
  show();
}

function change(more) {
  Object.assign(state, more);
  window.history.replaceState(null, "", "#" + written());
  show();
}

function showChart() {
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  if (!figures.length) return;
  const names = [...at("chart").options].map((option) => option.textContent);
  const chosen = Math.max(0, names.indexOf(state.chart));
  at("chart").value = chosen;
  figures.forEach((figure, i) => { figure.hidden = i !== chosen; });
}

function option(label) {
  const element = document.createElement("option");
  element.value = element.textContent = label;
  return element;
}

function showLosses() {
  const own = data.rows.filter((row) => Object.keys(row.pages).length);
  at("versus").hidden = own.length < 2;
  if (own.length < 2) return;
  const b = own.find((row) => row.label === state.b) ?? own[own.length - 1];
  const a = own.find((row) => row.label === state.a && row !== b) ?? own.find((row) => row !== b);
  at("b").value = b.label;
  at("a").value = a.label;
  const shared = Object.keys(b.pages).filter((n) => a.pages[n] && a.pages[n] !== b.pages[n]);
  at("losses").replaceChildren(...shared.map((n) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const better = data.lower[n] ? b.values[n] - a.values[n] : a.values[n] - b.values[n];
    link.href = `samples/${b.pages[n]}.html#against=${a.pages[n]}&show=lost`;
    link.textContent = data.columns[n];
    item.append(link, ` ${better > 0 ? "behind by" : better < 0 ? "ahead by" : "equal,"} ${Number(Math.abs(better).toPrecision(3))}`);
    return item;
  }));
  if (!shared.length) at("losses").textContent = "These rows share no task with samples.";
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    const key = button.dataset.key, first = !lowerFirst(key);
    if (state.sort !== key) change({ sort: key, down: first });
    else if (state.down === first) change({ down: !first });
    else change({ sort: "", down: false });
  });
}
for (const box of boxes) {
  box.addEventListener("change", () => {
    const hidden = new Set(state.hidden), name = data.columns[box.dataset.column];
    if (box.checked) hidden.delete(name); else hidden.add(name);
    change({ hidden });
  });
}
at("all").addEventListener("click", () => change({ hidden: new Set() }));
at("no").addEventListener("click", () => change({ hidden: new Set(data.columns) }));
at("query").addEventListener("input", () => change({ query: at("query").value }));
at("measured")?.addEventListener("change", () => change({ measured: at("measured").checked }));
at("chart")?.addEventListener("change", () => change({ chart: at("chart").selectedOptions[0].textContent }));
for (const side of ["a", "b"]) {
  at(side).append(...data.rows.filter((row) => Object.keys(row.pages).length).map((row) => option(row.label)));
  at(side).addEventListener("change", () => change({ [side]: at(side).value }));
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "/" && !event.target.closest("input, select")) { event.preventDefault(); at("query").focus(); }
  if (event.key === "Escape" && state.query) change({ query: "" });
});
window.addEventListener("hashchange", read);
read();
