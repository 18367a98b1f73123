// The runs with where their rollouts went, and the curves: each drawn when it is first seen, with its numbers as a table.
const LIGHT = ["#0b6e4f", "#c2410c", "#1d4ed8", "#9333ea", "#a16207", "#0e7490", "#be185d", "#4d7c0f", "#6b7280", "#111827"];
const DARK = ["#5ac8a0", "#fb923c", "#7aa2ff", "#c794fb", "#e0b84c", "#4fc6e0", "#f472b6", "#a3d65c", "#a9b1bb", "#e5e7eb"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const night = matchMedia("(prefers-color-scheme: dark)");
const cards = new Map(); // title -> { card, plot, chart, seen }
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const one = cards.get(entry.target.dataset.title);
      if (entry.isIntersecting && one && !one.seen) {
        one.seen = true;
        drawChart(one);
      }
    }
  },
  { rootMargin: "300px" },
);
night.addEventListener("change", drawSeen);

// plotly takes longest to start: it waits in an inert element until the list is there.
async function loadPlotly() {
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const source = document.getElementById("plotly");
  source.replaceWith(make("script", {}, source.textContent));
  drawSeen();
}

function drawSeen() {
  for (const one of cards.values()) if (one.seen) drawChart(one);
}

function showRuns() {
  const { runs } = data.overview;
  document.getElementById("run-cards").replaceChildren(...runs.map((run, number) => runCard(run, number, runs.length)));
}

function runCard(run, number, numRuns) {
  const title = make("h3", {}, visible(run.name));
  if (numRuns > 1) title.prepend(make("span", { class: `dash dash-${number % 3}`, "aria-hidden": "true" }));
  const about = Object.entries(run.config).filter(([, value]) => value !== null);
  const card = make("div", { class: "card" }, title, make("p", {}, visible(run.state)));
  card.append(make("p", {}, about.map(([name, value]) => `${name} ${visible(String(value))}`).join(" · ")));
  const differ = run.fates.some((one) => one.run !== null && one.stored !== null && one.run !== one.stored);
  const table = make("table", {}, make("caption", {}, "Where every rollout drawn went"));
  const heads = ["", "rollouts", "mean tokens", ...(differ ? ["in records", "their mean"] : [])];
  table.append(make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))));
  const body = make("tbody");
  for (const one of run.fates) {
    const [count, mean] = one.run === null ? [one.stored, one.stored_mean] : [one.run, one.run_mean ?? one.stored_mean];
    const values = [count, mean, ...(differ ? [one.stored, one.stored_mean] : [])];
    const cells = values.map((value, place) => make("td", {}, place % 2 && value !== null ? value.toFixed(1) : shown(value)));
    body.append(make("tr", {}, make("th", { scope: "row" }, one.kind), ...cells));
  }
  table.append(body);
  card.append(make("div", { class: "scroll" }, table));
  if (differ) card.append(make("p", { class: "warn" }, "The run's counts and its records differ: records of some steps are not here, or not whole."));
  if (run.unreadable) card.append(make("p", { class: "warn" }, `${run.unreadable} lines of rollouts could not be read.`));
  return card;
}

function showCharts() {
  const { charts } = data.overview;
  const place = document.getElementById("charts");
  if (!charts.length) place.replaceChildren(make("p", {}, "No step yet."));
  else if (!cards.size) place.replaceChildren();
  for (const [title, one] of cards) {
    if (!charts.some((chart) => chart.title === title)) {
      one.card.remove();
      cards.delete(title);
    }
  }
  for (const chart of charts) {
    const known = cards.get(chart.title);
    const one = known ?? chartCard(chart);
    one.chart = chart;
    one.plot.style.height = `${pixelsOf(chart)}px`;
    one.note.textContent = chart.note;
    one.plot.setAttribute("aria-label", spoken(chart));
    if (one.table.open) fillTable(one);
    if (known) {
      if (one.seen) drawChart(one);
      continue;
    }
    cards.set(chart.title, one);
    place.append(one.card);
    seen.observe(one.card);
  }
}

function chartCard(chart) {
  const id = `chart-${cards.size}`;
  const note = make("p", { id: `${id}-note` });
  const plot = make("div", { class: "plot", role: "img", "aria-describedby": `${id}-note` });
  const table = make("details", {}, make("summary", {}, `${chart.title} as a table`));
  const card = make("div", { class: "card", "data-title": chart.title }, make("h3", {}, chart.title), note, plot, table);
  const one = { card, note, plot, table, chart, seen: false };
  table.addEventListener("toggle", () => table.open && fillTable(one));
  return one;
}

// A curve for whoever does not see it.
function spoken(chart) {
  const parts = chart.series.map((one) => {
    const last = one.x.length - 1;
    const way = last ? `${written(chart, one.y[0])} at step ${one.x[0]} to ` : "";
    return `${nameOf(chart, one)}: ${way}${written(chart, one.y[last])} at step ${one.x[last]}`;
  });
  return `${chart.title}. ${parts.join("; ")}`;
}

function written(chart, value) {
  return chart.unit === "share" ? `${Number((100 * value).toFixed(3))} %` : shown(value);
}

function nameOf(chart, one) {
  const labels = new Set(chart.series.map((series) => series.label));
  const run = visible(one.run);
  if (data.overview.runs.length < 2) return one.label;
  return labels.size > 1 ? `${run}: ${one.label}` : run;
}

function fillTable(one) {
  const { chart } = one;
  const steps = [...new Set(chart.series.flatMap((series) => series.x))].sort((a, b) => a - b);
  const heads = chart.series.map((series) => make("th", { scope: "col", title: series.meaning }, nameOf(chart, series)));
  const values = chart.series.map((series) => new Map(series.x.map((step, place) => [step, series.y[place]])));
  const body = steps.map((step) => {
    const cells = values.map((known) => make("td", {}, known.has(step) ? written(chart, known.get(step)) : "–"));
    return make("tr", {}, make("th", { scope: "row" }, step), ...cells);
  });
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "step"), ...heads));
  const unit = chart.unit === "share" ? "percent" : chart.unit;
  const table = make("table", {}, make("caption", {}, `${chart.title}, ${unit}`), head, make("tbody", {}, ...body));
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${chart.title} as a table` }, table);
  one.table.replaceChildren(one.table.firstElementChild, scroll);
}

// Known before it is drawn, so that nothing below moves.
function pixelsOf(chart) {
  return 250 + legendPixels(chart);
}

function legendPixels(chart) {
  return chart.series.length > 1 ? 6 + 20 * Math.ceil(chart.series.length / 2) : 0;
}

function drawChart({ chart, plot }) {
  if (!window.Plotly) return; // loadPlotly draws what was seen before
  const colors = night.matches ? DARK : LIGHT;
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--quiet", "--line"].map((name) => style.getPropertyValue(name).trim());
  const runs = data.overview.runs.map((run) => run.name);
  const labels = [...new Set(chart.series.map((one) => one.label))];
  const traces = chart.series.map((one) => ({
    x: one.x,
    y: one.y,
    name: plain(nameOf(chart, one)),
    mode: one.x.length > 60 ? "lines" : "lines+markers",
    line: {
      color: colors[(labels.length > 1 ? labels.indexOf(one.label) : runs.indexOf(one.run)) % colors.length],
      dash: DASHES[runs.indexOf(one.run) % DASHES.length],
      width: 2,
    },
    marker: { size: 5 },
    hovertemplate: `step %{x}: %{y:${chart.unit === "share" ? ".2~%" : ".4~g"}}`,
  }));
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, fixedrange: false };
  Plotly.react(
    plot,
    traces,
    {
      height: pixelsOf(chart),
      margin: { l: 56, r: 12, t: 8, b: 40 + legendPixels(chart) },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12 },
      showlegend: traces.length > 1,
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, entrywidth: 0.48, entrywidthmode: "fraction", font: { size: 11 } },
      hovermode: "x unified",
      hoverlabel: { bgcolor: style.getPropertyValue("--back").trim(), font: { color: ink } },
      xaxis: { ...axis, title: { text: "step", standoff: 4 }, tickformat: "d", dtick: spanOf(chart) < 6 ? 1 : undefined },
      yaxis: {
        ...axis,
        type: chart.log ? "log" : "linear",
        title: { text: chart.unit === "share" ? "" : chart.unit },
        tickformat: chart.unit === "share" ? ".2~%" : undefined,
        exponentformat: chart.log ? "power" : "SI",
        rangemode: chart.log || chart.unit === "reward" ? "normal" : "tozero",
        nticks: 6,
      },
    },
    { responsive: true, displayModeBar: false },
  );
}

function spanOf(chart) {
  const steps = chart.series.flatMap((one) => one.x);
  return Math.max(...steps) - Math.min(...steps);
}

// plotly reads a little HTML in names: these have none.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
