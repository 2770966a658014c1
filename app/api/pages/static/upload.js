// One request a file, three at once, each with a bar and what became of it. Without JavaScript the form does all at once.

const form = document.querySelector("form.upload");
const drop = form.querySelector(".drop");
const chosen = form.querySelector("[name=files]");
const list = document.querySelector(".progress");
const AT_ONCE = 3;
const PATIENCE_S = 180;
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

function send({ file, label, line, bar }) {
  return new Promise((done) => {
    const end = (words, kind) => { line.cells[2].textContent = words; line.className = kind; done(); };
    const body = new FormData();
    if (label) body.append("study", label);
    body.append("files", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", `${form.action}?detail=1`);
    request.setRequestHeader("Accept", "application/json");
    request.upload.onprogress = (event) => { bar.max = event.total; bar.value = event.loaded; };
    request.onload = () => {
      bar.value = bar.max;
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* the status tells */ }
      const failed = answer.files?.[0];
      if (failed) end(failed.words || failed.reason, failed.reason === "duplicate" ? "" : "bad");
      else if (answer.success) { follow(answer.stored?.[0], line); end("landed", "good"); }
      else end(answer.error || answer.message || `refused (${request.status})`, "bad");
    };
    request.onerror = () => end("the service does not answer", "bad");
    line.cells[2].textContent = "sending";
    request.send(body);
  });
}

// What the pipeline made of it: asked until it has ended.
async function follow(stored, line) {
  if (!stored) return;
  const until = Date.now() + PATIENCE_S * 1000;
  for (let pause = 300; Date.now() < until; pause = Math.min(pause * 1.5, 4000)) {
    await new Promise((done) => setTimeout(done, pause));
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
