"use strict";
// What the page knows. Columns of small facts are numbers in arrays; texts are decompressed when they are asked for.
// A file has everything in inert elements of base64; a served page asks its own server.
const LIVE = document.documentElement.dataset.live === "yes";
const NAMED = ["problem", "outcome", "fate"];
const KEPT_CHUNKS = 40;
const data = { overview: { runs: [], charts: [] }, names: {}, columns: {}, count: 0, generation: 0 };
const chunks = new Map(); // number -> promise of its texts, the latest used last

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function clearRollouts() {
  data.count = 0;
  data.columns = {};
  data.names = Object.fromEntries(NAMED.map((name) => [name, []]));
  chunks.clear();
}

function addBlock(block) {
  for (const name of NAMED) for (const one of block.names[name]) data.names[name].push(one);
  for (const [name, values] of Object.entries(block.columns)) {
    const column = (data.columns[name] ??= []);
    for (const value of values) column.push(value);
  }
  data.count = data.columns.run.length;
}

async function readPage() {
  clearRollouts();
  data.overview = JSON.parse(new TextDecoder().decode(bytesOf(document.getElementById("overview").textContent)));
  for (let number = 0; ; number++) {
    const element = document.getElementById(`block-${number}`);
    if (!element) return;
    addBlock(await inflate(bytesOf(element.textContent)));
    element.remove();
  }
}

function wholePage() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
}

async function fetchChunk(number) {
  if (LIVE) {
    const answer = await fetch(`chunks/${data.generation}/${number}`);
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    return inflate(await answer.arrayBuffer());
  }
  if (!document.getElementById(`chunk-${number}`)?.nextElementSibling) await wholePage(); // it may still be half there
  return inflate(bytesOf(document.getElementById(`chunk-${number}`).textContent));
}

// The texts of one chunk; the chunks used last stay in memory.
function chunkOf(number) {
  const known = chunks.get(number);
  const found = known ?? fetchChunk(number);
  chunks.delete(number);
  chunks.set(number, found);
  if (!known) found.catch(() => chunks.delete(number));
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return found;
}

// The texts of one rollout.
async function textsOf(index) {
  const chunk = await chunkOf(data.columns.chunk[index]);
  return textsIn(chunk, data.columns.place[index]);
}

function textsIn(chunk, place) {
  const row = chunk.rows[place];
  return { ...row, prompt: chunk.prompts[row.prompt], test: row.test === null ? null : chunk.tests[row.test] };
}

function fact(column, index) {
  const value = data.columns[column][index];
  return NAMED.includes(column) ? data.names[column][value] : value;
}

// Characters that would not be seen, or would move others: shown as what they are.
function visible(text) {
  return text
    .replace(/[\x00-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, named)
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, named);
}

function named(character) {
  return `⟨U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

// An element of the page. Text enters as text, never as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children) element.append(child instanceof Node ? child : String(child));
  return element;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(4)));
}
