// The picture of an instance: window by dragging, frames by wheel, slider and keys, cine, zoom and pan.
// Grey frames are fetched once as stored and drawn through a table here; all others are drawn by the service.

const viewer = document.querySelector(".viewer[data-frames]");
if (viewer) start(viewer);

function start(root) {
  const data = root.dataset;
  const [rows, columns, count] = [data.rows, data.columns, data.count].map(Number);
  const [slope, intercept] = [Number(data.slope), Number(data.intercept)];
  const raw = data.raw === "true";
  const signed = data.signed === "true";
  const wide = data.bits === "16";
  const stage = root.querySelector(".stage");
  const still = stage.querySelector("img");
  const canvas = stage.querySelector("canvas");
  const legend = stage.querySelector(".legend");
  const controls = root.querySelector(".controls");
  const input = (name) => controls.querySelector(`[name=${name}]`);
  const slider = input("frame");
  const cache = new Map(); // frame number -> promise of its pixels, or of its picture
  const own = data.width === "" ? null : { center: Number(data.center), width: Number(data.width) };

  let frame = slider ? Number(slider.value) : 1;
  let win = own;
  let invert = false;
  let view = { zoom: 0, x: 0, y: 0 };
  let shown = null;
  let timer = 0;

  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  const words = new Uint32Array(picture.data.buffer);
  controls.hidden = false;

  async function load(number) {
    if (!cache.has(number)) {
      cache.set(number, raw ? pixels(number) : image(number));
      if (cache.size > 300) cache.delete(cache.keys().next().value);
      cache.get(number).catch(() => cache.delete(number));
    }
    return cache.get(number);
  }

  async function pixels(number) {
    const accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1, application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1';
    const answer = await fetch(`${data.frames}${number}`, { headers: { Accept: accept } });
    if (!answer.ok) throw new Error(`the frame cannot be read (${answer.status})`);
    let bytes = new Uint8Array(await answer.arrayBuffer());
    const type = answer.headers.get("Content-Type") || "";
    if (type.startsWith("multipart/")) bytes = onlyPart(bytes, /boundary="?([^";]+)/.exec(type)[1]);
    return stored(bytes, Number(data.stored), Number(data.high));
  }

  // The one part of a multipart body: after the blank line, up to the closing boundary.
  function onlyPart(bytes, boundary) {
    const head = new TextDecoder("latin1").decode(bytes.subarray(0, 4096));
    return bytes.subarray(head.indexOf("\r\n\r\n") + 4, bytes.length - boundary.length - 8);
  }

  // Pixels as unsigned table indexes: bits beside the stored ones dropped, negative numbers in two's complement.
  function stored(bytes, bits, high) {
    const size = rows * columns;
    if (bytes.length < size * (wide ? 2 : 1)) throw new Error("the frame is shorter than its size");
    const copy = bytes.slice(0, size * (wide ? 2 : 1));
    const values = wide ? new Uint16Array(copy.buffer) : copy;
    const shift = high + 1 - bits;
    const mask = 2 ** bits - 1;
    if (shift || bits < (wide ? 16 : 8)) for (let i = 0; i < size; i++) values[i] = (values[i] >> shift) & mask;
    return values;
  }

  async function image(number) {
    const one = new Image();
    one.src = `${data.frames}${number}/rendered?accept=image%2Fpng`;
    await one.decode();
    return one;
  }

  function value(index) {
    const bits = Number(data.stored);
    return (signed && index >= 2 ** (bits - 1) ? index - 2 ** bits : index) * slope + intercept;
  }

  function full(values) {
    let [low, high] = [Infinity, -Infinity];
    for (const index of values) {
      const v = value(index);
      if (v < low) low = v;
      if (v > high) high = v;
    }
    return { center: (low + high + 1) / 2, width: Math.max(high - low + 1, 1) };
  }

  // PS3.3 C.11.2.1.2.1, LINEAR.
  function table() {
    const grey = new Uint32Array(2 ** Number(data.stored));
    const dark = (data.inverted === "true") !== invert;
    const [center, width] = [win.center, Math.max(win.width, 1)];
    for (let index = 0; index < grey.length; index++) {
      let y = width === 1 ? (value(index) > center - 0.5 ? 255 : 0) : ((value(index) - (center - 0.5)) / (width - 1) + 0.5) * 255;
      y = y < 0 ? 0 : y > 255 ? 255 : Math.round(y);
      if (dark) y = 255 - y;
      grey[index] = 0xff000000 | (y << 16) | (y << 8) | y;
    }
    return grey;
  }

  function draw() {
    if (!shown) return;
    if (raw) {
      win ??= full(shown);
      const grey = table();
      for (let i = 0; i < words.length; i++) words[i] = grey[shown[i]];
      context.putImageData(picture, 0, 0);
    } else {
      context.clearRect(0, 0, columns, rows);
      context.drawImage(shown, 0, 0, columns, rows);
    }
    place();
    tell();
  }

  function place() {
    const box = stage.getBoundingClientRect();
    const scale = Math.min(box.width / columns, box.height / rows) * 2 ** view.zoom;
    canvas.style.setProperty("width", `${columns * scale}px`);
    canvas.style.setProperty("height", `${rows * scale}px`);
    canvas.style.setProperty("max-width", "none");
    canvas.style.setProperty("max-height", "none");
    canvas.style.setProperty("transform", `translate(${view.x}px, ${view.y}px)`);
    canvas.style.setProperty("image-rendering", scale > 3 ? "pixelated" : "auto");
  }

  function tell() {
    const parts = [];
    if (count > 1) parts.push(`frame ${frame} / ${count}`);
    if (raw) parts.push(`C ${round(win.center)}  W ${round(win.width)}`);
    if (view.zoom) parts.push(`zoom ${round(2 ** view.zoom)}`);
    legend.textContent = parts.join("   ");
    if (slider) {
      slider.value = frame;
      input("shown").textContent = `${frame} / ${count}`;
    }
    if (raw) {
      input("center").value = round(win.center);
      input("width").value = round(win.width);
    }
    const zoom = input("zoom");
    zoom.value = view.zoom;
  }

  const round = (number) => Math.round(number * 100) / 100;

  async function show(number) {
    frame = Math.min(Math.max(number, 1), count);
    const asked = frame;
    try {
      const loaded = await load(asked);
      if (asked !== frame) return; // a later one was asked for meanwhile
      shown = loaded;
      still.hidden = true;
      canvas.hidden = false;
      draw();
      root.dataset.drawn = asked;
      if (count > 1) load((asked % count) + 1).catch(() => {});
    } catch (error) {
      legend.textContent = error.message;
      stop();
    }
  }

  function stop() {
    clearTimeout(timer);
    timer = 0;
    const play = input("play");
    if (play) {
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    }
  }

  function play() {
    const pause = 1000 / (Number(data.rate) || 10);
    const step = async () => {
      const begun = performance.now();
      await show((frame % count) + 1);
      if (timer) timer = setTimeout(step, Math.max(pause - (performance.now() - begun), 0));
    };
    timer = setTimeout(step, pause);
    input("play").textContent = "Stop";
    input("play").setAttribute("aria-pressed", "true");
  }

  function reset() {
    [win, invert, view] = [own, false, { zoom: 0, x: 0, y: 0 }];
    if (raw) input("invert").checked = false;
    if (raw) input("preset").value = "";
    draw();
  }

  function zoomBy(step) {
    view.zoom = Math.min(Math.max(view.zoom + step, -2), 5);
    draw();
  }

  // Left button: window. With Shift, or any other button: pan. Without a window, left pans too.
  stage.addEventListener("pointerdown", (event) => {
    if (!shown) return;
    event.preventDefault();
    stage.focus();
    stage.setPointerCapture(event.pointerId);
    const from = { x: event.clientX, y: event.clientY, win: win && { ...win }, view: { ...view } };
    const pan = event.shiftKey || event.button !== 0 || !raw;
    const move = (next) => {
      const [dx, dy] = [next.clientX - from.x, next.clientY - from.y];
      if (pan) view = { ...view, x: from.view.x + dx, y: from.view.y + dy };
      else {
        const step = Math.max(from.win.width, 16) / 300;
        win = { center: from.win.center + dy * step, width: Math.max(from.win.width + dx * step, 1) };
        input("preset").value = "custom";
      }
      draw();
    };
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", move), { once: true });
    stage.addEventListener("pointercancel", () => stage.removeEventListener("pointermove", move), { once: true });
  });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (count > 1 && !event.ctrlKey) show(frame + Math.sign(event.deltaY));
    else zoomBy(-Math.sign(event.deltaY) * 0.2);
  }, { passive: false });
  stage.addEventListener("dblclick", reset);
  stage.addEventListener("keydown", (event) => {
    const act = {
      ArrowRight: () => show(frame + 1), ArrowDown: () => show(frame + 1), PageDown: () => show(frame + 10),
      ArrowLeft: () => show(frame - 1), ArrowUp: () => show(frame - 1), PageUp: () => show(frame - 10),
      Home: () => show(1), End: () => show(count), "+": () => zoomBy(0.2), "-": () => zoomBy(-0.2), 0: reset,
      i: () => raw && input("invert").click(), " ": () => input("play")?.click(),
    }[event.key];
    if (act && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      act();
    }
  });
  slider?.addEventListener("input", () => show(Number(slider.value)));
  input("play")?.addEventListener("click", () => (timer ? stop() : play()));
  input("reset").addEventListener("click", reset);
  input("zoom").addEventListener("input", (event) => zoomBy(Number(event.target.value) - view.zoom));
  if (raw) {
    for (const name of ["center", "width"])
      input(name).addEventListener("change", () => {
        win = { center: Number(input("center").value), width: Math.max(Number(input("width").value), 1) };
        input("preset").value = "custom";
        draw();
      });
    input("invert").addEventListener("change", (event) => {
      invert = event.target.checked;
      draw();
    });
    input("preset").addEventListener("change", (event) => {
      const [center, width] = event.target.value.split(",").map(Number);
      win = event.target.value === "full" ? full(shown) : event.target.value === "" ? own : { center, width };
      draw();
    });
  }
  new ResizeObserver(() => shown && place()).observe(stage);
  show(frame);
}
