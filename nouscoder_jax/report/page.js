// Starts the page; a served one is kept up with its runs.
const POLL_MS = 2000;

function showAll({ keep }) {
  showRuns();
  showCharts();
  fillFilters();
  return applyFilters({ keep });
}

function listen() {
  let typing;
  const later = () => {
    clearTimeout(typing);
    typing = setTimeout(applyFilters, 150);
  };
  for (const input of document.querySelectorAll("#filters input")) input.addEventListener("input", later);
  for (const select of document.querySelectorAll("#filters select")) select.addEventListener("change", () => applyFilters());
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("reset", () => setTimeout(applyFilters));
  at("grid").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  at("grid").addEventListener("keydown", gridKeys);
  at("rows").addEventListener("mousedown", (event) => (list.active = placeAt(event))); // before the focus that it gives
  at("rows").addEventListener("click", (event) => {
    moveTo(placeAt(event));
    openRollout(list.found[list.active]);
  });
  at("grid").addEventListener("focus", () => list.active < 0 && moveTo(0));
  addEventListener("resize", drawRows);
  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      at("filter-text").focus();
    } else if (event.key === "Escape" && !at("rollout").hidden) {
      closeRollout();
    }
  });
}

function tell(text, lost = false) {
  const line = at("connection");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("lost", lost);
}

async function follow() {
  let version = "";
  let blocks = 0;
  for (;;) {
    try {
      const query = new URLSearchParams({ version, blocks, generation: data.generation });
      const answer = await fetch(`updates?${query}`);
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      const news = await answer.json();
      if (news.version !== version) {
        const again = news.generation !== data.generation;
        if (again || !version) clearRollouts();
        for (const block of news.blocks) addBlock(await inflate(bytesOf(block)));
        Object.assign(data, { overview: news.overview, generation: news.generation });
        [version, blocks] = [news.version, news.next];
        if (again && !at("rollout").hidden) closeRollout();
        await showAll({ keep: !again });
      }
      tell(data.overview.runs.map((run) => `${visible(run.name)}: ${visible(run.state)}`).join("; "));
    } catch (error) {
      tell(`The server of this page does not answer (${error.message}); what it last sent is shown.`, true);
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

async function start() {
  drawHead();
  listen();
  if (LIVE) {
    loadPlotly();
    return follow();
  }
  await readPage();
  await showAll({ keep: false });
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
  return loadPlotly();
}

start();
