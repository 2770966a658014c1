// One request a file, three at once, each with a bar and what became of it. Without JavaScript the form does all at once.
// Where the landing storage takes them, files over `data-direct` bytes go straight to it.

const form = document.querySelector("form.upload");
const drop = form.querySelector(".drop");
const chosen = form.querySelector("[name=files]");
const list = document.querySelector(".progress");
const AT_ONCE = 3;
const PATIENCE_S = 180;
const HEAD_BYTES = 1 << 20;
const TRIES = 6;
const waiting = [];
let busy = 0;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  add([...chosen.files]);
  chosen.value = "";
});
for (const name of ["dragover", "dragenter"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = entries.length ? (await Promise.all(entries.map(within))).flat() : [...event.dataTransfer.files];
  add(files);
});

// All files below an entry that was dropped; a folder is read in parts until none is left.
async function within(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const part = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!part.length) break;
    found.push(...part);
  }
  return (await Promise.all(found.map(within))).flat();
}

function add(files) {
  list.hidden = !files.length && list.hidden;
  const label = form.querySelector("[name=study]").value;
  for (const file of files) {
    const line = list.querySelector("tbody").insertRow();
    line.insertCell().textContent = file.name;
    const bar = document.createElement("progress");
    bar.max = file.size || 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `sent of ${file.name}`);
    line.insertCell().append(bar);
    line.insertCell().textContent = "waiting";
    waiting.push({ file, label, line, bar });
  }
  next();
}

function next() {
  while (busy < AT_ONCE && waiting.length) {
    busy += 1;
    send(waiting.shift()).finally(() => { busy -= 1; next(); });
  }
}

async function send({ file, label, line, bar }) {
  const end = (words, kind) => { line.cells[2].textContent = words; line.className = kind; };
  const direct = Number(form.dataset.direct || Infinity);
  line.cells[2].textContent = "sending";
  const body = new FormData();
  if (label) body.append("study", label);
  const whole = file.size <= direct;
  if (!whole) body.append("size", file.size);
  body.append("files", whole ? file : file.slice(0, HEAD_BYTES), file.name);
  const url = whole ? `${form.action}?detail=1` : `${form.action}/session?detail=1`;
  const reply = await ask("POST", url, { Accept: "application/json" }, body, whole ? bar : null);
  const answer = reply.json;
  const failed = answer.files?.[0];
  let stored = answer.stored?.[0];
  if (!reply.status) return end("the service does not answer", "bad");
  if (failed) return end(failed.words || failed.reason, failed.reason === "duplicate" ? "" : "bad");
  if (!answer.success) return end(answer.error || answer.message || `refused (${reply.status})`, "bad");
  if (!whole) {
    const put = await toStore(answer.url, file, bar);
    if (put.status === 412) return end("another file of this name came first", "");
    if (!put.json.generation) return end(`the storage did not take it (${put.status || "no answer"})`, "bad");
    stored = { object: answer.name, generation: put.json.generation };
  }
  bar.value = bar.max;
  end("landed, being processed", "good");
  follow(stored, line);
}

// The resumable upload of Cloud Storage: all in one request, and after a break the rest, from where the store has it.
async function toStore(url, file, bar) {
  let reply = { status: 0, json: {} };
  for (let start = 0, tries = 0; tries < TRIES; ) {
    const range = `bytes ${start}-${file.size - 1}/${file.size}`;
    reply = await ask("PUT", url, { "Content-Range": range }, file.slice(start), bar, start, file.size);
    if (final(reply.status)) return reply;
    await pause(1000 * 2 ** tries);
    reply = await ask("PUT", url, { "Content-Range": `bytes */${file.size}` });
    if (final(reply.status)) return reply;
    const next = reply.status === 308 && reply.range ? Number(reply.range.split("-")[1]) + 1 : 0;
    tries = next > start ? 1 : tries + 1;
    start = next;
  }
  return reply;
}

// Whether asking again would bring no other answer.
function final(status) { return status >= 200 && status < 500 && status !== 308 && status !== 408 && status !== 429; }

function pause(time_ms) { return new Promise((done) => setTimeout(done, time_ms)); }

// One request: its status, 0 without an answer, and what it says; `bar` shows how far it is from `start` on.
function ask(method, url, headers, body = null, bar = null, start = 0, size = 0) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    const end = () => {
      let json = {};
      try { json = JSON.parse(request.responseText); } catch { /* the status tells */ }
      done({ status: request.status, json, range: request.status === 308 ? request.getResponseHeader("Range") : null });
    };
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (bar) request.upload.onprogress = (event) => { bar.max = size || event.total; bar.value = start + event.loaded; };
    request.onload = end;
    request.onerror = end;
    request.send(body);
  });
}

// What the pipeline made of it: asked until it has ended.
async function follow(stored, line) {
  if (!stored) return;
  const until = Date.now() + PATIENCE_S * 1000;
  for (let wait = 300; Date.now() < until; wait = Math.min(wait * 1.5, 4000)) {
    await pause(wait);
    const answer = await fetch(`${form.action}/outcome?object=${encodeURIComponent(stored.object)}&generation=${stored.generation}`);
    if (!answer.ok) return;
    const { outcome, reason, link } = await answer.json();
    if (outcome === "pending") continue;
    line.cells[2].textContent = reason ? `${outcome}: ${reason}` : outcome;
    line.className = outcome === "stored" ? "good" : "bad";
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = "look";
      line.cells[2].append(" ", anchor);
    }
    return;
  }
}
