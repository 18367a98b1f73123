// The browser of rollouts: filters, a list of which only the visible rows are in the page, one rollout opened.
const ROW_PIXELS = 28;
const COLUMNS = [
  ["run", "run", "wide"], ["step", "step", "number"], ["problem", "problem", ""], ["sample", "group · sample", "wide number"],
  ["outcome", "outcome", ""], ["passed", "tests", "wide number"], ["reward", "reward", "number"],
  ["tokens", "tokens", "wide number"], ["fate", "became", "wide"],
];
const list = { found: new Int32Array(0), active: -1, opened: -1, search: 0, hits: null };
const at = (id) => document.getElementById(id);

function rowText(name, index) {
  if (name === "run") return visible(data.overview.runs[fact("run", index)].name);
  if (name === "problem") return visible(fact("problem", index));
  if (name === "sample") return fact("group", index) < 0 ? fact("sample", index) : `${fact("group", index)} · ${fact("sample", index)}`;
  if (name === "passed") return fact("total", index) === null ? "–" : `${fact("passed", index)}/${fact("total", index)}`;
  if (name === "outcome" || name === "fate") return visible(fact(name, index).replaceAll("_", " "));
  return shown(fact(name, index));
}

function drawHead() {
  const cells = COLUMNS.map(([, label, style]) => make("span", { role: "columnheader", class: style }, label));
  at("head").replaceChildren(make("div", { role: "row", "aria-rowindex": "1" }, ...cells));
}

// Puts the rows into the page that are in sight, and a few beside them.
function drawRows() {
  const grid = at("grid");
  const first = Math.max(0, Math.floor(grid.scrollTop / ROW_PIXELS) - 5);
  const last = Math.min(list.found.length, Math.ceil((grid.scrollTop + grid.clientHeight) / ROW_PIXELS) + 5);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(rowOf(place));
  at("rows").style.height = `${list.found.length * ROW_PIXELS}px`;
  at("rows").replaceChildren(...rows);
  grid.setAttribute("aria-rowcount", String(list.found.length + 1));
  if (list.active >= first && list.active < last) grid.setAttribute("aria-activedescendant", `row-${list.active}`);
  else grid.removeAttribute("aria-activedescendant");
}

function rowOf(place) {
  const index = list.found[place];
  const cells = COLUMNS.map(([name, , style]) => make("span", { role: "gridcell", class: style }, rowText(name, index)));
  const outcome = fact("outcome", index);
  cells[4].classList.add(outcome === "accepted" ? "good" : "bad");
  const chosen = place === list.active;
  const row = make("div", { role: "row", id: `row-${place}`, "aria-rowindex": String(place + 2), "aria-selected": String(chosen) }, ...cells);
  row.style.top = `${place * ROW_PIXELS}px`;
  return row;
}

function moveTo(place) {
  if (!list.found.length) return;
  list.active = Math.max(0, Math.min(list.found.length - 1, place));
  const grid = at("grid");
  const top = list.active * ROW_PIXELS;
  const room = grid.clientHeight - at("head").offsetHeight;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + ROW_PIXELS > grid.scrollTop + room) grid.scrollTop = top + ROW_PIXELS - room;
  drawRows();
}

// The place in the list that the mouse is at.
function placeAt(event) {
  const place = Math.floor((event.clientY - at("rows").getBoundingClientRect().top) / ROW_PIXELS);
  return Math.max(0, Math.min(list.found.length - 1, place));
}

function gridKeys(event) {
  const page = Math.max(1, Math.floor(at("grid").clientHeight / ROW_PIXELS) - 2);
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key in moves) moveTo(list.active < 0 ? 0 : list.active + moves[event.key]);
  else if (event.key === "Enter" && list.active >= 0) openRollout(list.found[list.active]);
  else return;
  event.preventDefault();
}

// Filters.

function fillChoices(id, values, all) {
  const select = at(id);
  const chosen = select.value;
  const options = values.map(([value, label]) => make("option", { value }, label));
  select.replaceChildren(make("option", { value: "" }, all), ...options);
  select.value = values.some(([value]) => String(value) === chosen) ? chosen : "";
}

function fillFilters() {
  fillChoices("filter-run", data.overview.runs.map((run, number) => [number, visible(run.name)]), "all");
  for (const name of ["outcome", "fate"]) {
    const values = data.names[name].map((value, place) => [place, visible(value.replaceAll("_", " "))]);
    fillChoices(`filter-${name}`, values, "all");
  }
  const rewards = [...new Set(data.columns.reward)].filter((value) => value !== null).sort((a, b) => b - a);
  const shownRewards = rewards.slice(0, 50).map((value) => [value, shown(value)]);
  fillChoices("filter-reward", [...shownRewards, ["none", "none"]], "all");
}

function stepsOf(text) {
  const match = /^\s*(\d*)\s*(-?)\s*(\d*)\s*$/.exec(text);
  if (!match || (!match[1] && !match[3])) return text.trim() ? null : [0, Infinity];
  const first = match[1] ? Number(match[1]) : 0;
  const last = match[2] ? (match[3] ? Number(match[3]) : Infinity) : first;
  return [first, last];
}

// Places of the rollouts that pass all filters but the one by text.
function passing() {
  const steps = stepsOf(at("filter-step").value);
  at("filter-step").classList.toggle("wrong", steps === null);
  const [first, last] = steps ?? [0, Infinity];
  const wanted = ["run", "outcome", "fate"]
    .map((name) => [data.columns[name] ?? [], at(`filter-${name}`).value])
    .filter(([, value]) => value !== "")
    .map(([column, value]) => [column, Number(value)]);
  const reward = at("filter-reward").value;
  if (reward) wanted.push([data.columns.reward, reward === "none" ? null : Number(reward)]);
  const part = at("filter-problem").value.trim().toLowerCase();
  const fits = part ? data.names.problem.map((name) => name.toLowerCase().includes(part)) : null;
  const { step, problem } = data.columns;
  const found = new Int32Array(data.count);
  let number = 0;
  for (let index = 0; index < data.count; index++) {
    if (step[index] < first || step[index] > last || (fits && !fits[problem[index]])) continue;
    if (wanted.every(([column, value]) => column[index] === value)) found[number++] = index;
  }
  return found.slice(0, number);
}

// Applies the filters; a text is looked for chunk by chunk, and what is found is shown meanwhile.
async function applyFilters({ keep = false } = {}) {
  const search = ++list.search;
  const candidates = passing();
  const text = at("filter-text").value.toLowerCase();
  if (!text) return showFound(candidates, "", keep);
  const byChunk = new Map();
  for (const index of candidates) {
    const number = data.columns.chunk[index];
    if (!byChunk.has(number)) byChunk.set(number, []);
    byChunk.get(number).push(index);
  }
  const found = [];
  let done = 0;
  let told = performance.now();
  for (const [number, indices] of byChunk) {
    const chunk = await (chunks.has(number) ? chunkOf(number) : fetchChunk(number));
    if (search !== list.search) return;
    for (const index of indices) if (holds(textsIn(chunk, data.columns.place[index]), text)) found.push(index);
    done++;
    if (performance.now() - told > 150) {
      showFound(Int32Array.from(found), `, searched ${Math.round((100 * done) / byChunk.size)} %`, keep);
      told = performance.now();
    }
  }
  showFound(Int32Array.from(found), "", keep);
}

function holds(texts, text) {
  const parts = [texts.answer, texts.thinking, texts.program, texts.prompt, texts.detail, texts.got];
  return parts.some((part) => part && part.toLowerCase().includes(text));
}

function showFound(found, more, keep) {
  const was = list.active >= 0 ? list.found[list.active] : -1;
  list.found = found;
  list.active = keep ? found.indexOf(was) : -1;
  if (!keep) at("grid").scrollTop = 0;
  const number = found.length.toLocaleString("en");
  at("count").textContent = `${number} of ${data.count.toLocaleString("en")} rollouts${more}`;
  drawRows();
}

// One rollout.

async function openRollout(index) {
  list.opened = index;
  const pane = at("rollout");
  pane.hidden = false;
  at("browser").classList.add("open");
  pane.replaceChildren(make("p", {}, "reading ..."));
  drawRows();
  let texts;
  try {
    texts = await textsOf(index);
  } catch (error) {
    texts = null;
    if (list.opened === index) pane.replaceChildren(bar(), make("p", { class: "warn" }, `The texts cannot be read: ${error.message}.`));
  }
  if (!texts || list.opened !== index) return;
  pane.replaceChildren(bar(), ...rolloutParts(index, texts));
  pane.scrollTop = 0;
  pane.focus({ preventScroll: true });
}

function closeRollout() {
  at("rollout").hidden = true;
  at("browser").classList.remove("open");
  at("rollout").replaceChildren();
  list.opened = -1;
  at("grid").focus({ preventScroll: true });
  drawRows();
}

function bar() {
  const buttons = [["Previous", () => openNext(-1)], ["Next", () => openNext(1)], ["Close", closeRollout]];
  return make("div", { class: "bar" }, ...buttons.map(([label, act]) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", act);
    return button;
  }));
}

function openNext(by) {
  const place = list.active + by;
  if (place < 0 || place >= list.found.length) return;
  moveTo(place);
  openRollout(list.found[place]);
}

function rolloutParts(index, texts) {
  const value = (name) => rowText(name, index);
  const group = fact("group", index) < 0 ? "" : `, group ${fact("group", index)}`;
  const title = `${value("problem")}, step ${value("step")}${group}, sample ${fact("sample", index)}`;
  const facts = {
    run: value("run"), outcome: value("outcome"), "tests passed": value("passed"), reward: value("reward"),
    "what became of it": value("fate"), tokens: value("tokens"),
    ...Object.fromEntries(Object.entries(texts.facts).map(([name, one]) => [name.replaceAll("_", " "), visible(shown(one))])),
  };
  const terms = Object.entries(facts).map(([name, one]) => make("div", {}, make("dt", {}, name), make("dd", {}, one)));
  const parts = [
    make("h3", { id: "rollout-title" }, title),
    make("dl", {}, ...terms),
    ...section("Verdict", texts.detail || value("outcome")),
  ];
  if (texts.test) parts.push(...failingTest(texts));
  parts.push(...section("Prompt", texts.prompt));
  if (texts.thinking) {
    const words = `Thinking, ${texts.thinking.length.toLocaleString("en")} characters`;
    parts.push(make("h4", {}, "Thinking"), make("details", {}, make("summary", {}, words), block(texts.thinking)));
  }
  parts.push(...section("Completion", texts.answer || "(nothing after the thinking)"));
  return [...parts, ...section("Extracted program", texts.program ?? "(none)")];
}

function failingTest({ test, got }) {
  const gone = "not known: the run's problem file is not here, or is another one";
  const cells = [["input", test.input ?? gone], ["expected", test.expected ?? gone], ["got", got || "nothing kept; see the verdict"]];
  const boxes = cells.map(([name, text]) => make("div", {}, make("h5", {}, name), block(text)));
  return [make("h4", {}, `First failing test: number ${test.number}`), make("div", { class: "tests" }, ...boxes)];
}

function section(title, text) {
  return [make("h4", {}, title), block(text)];
}

function block(text) {
  return make("pre", { tabindex: "0" }, visible(text));
}
