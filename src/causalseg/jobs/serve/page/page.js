"use strict";
// One image, one or two views of runs (with the adapter or without): ask /predict, draw classes or
// confidence over the image, or the band of its features.

const $ = (id) => document.getElementById(id);
const state = { info: null, bands: new Map(), file: null, corruption: "", severity: 3, hidden: new Set(), wipe: 0.5 };
const views = new Map(); // by name: the run and whether it has its adapter
const layers = new Map(); // by view: pixels of image, labels, confidence and bands, and shares
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const VIRIDIS = [[68, 1, 84], [49, 104, 142], [53, 183, 121], [253, 231, 37]];
const NAMES = { fog_depth: "fog", rain_streaks: "rain", snow_ground: "snow", gaussian_noise: "noise" };
let asked = 0, stop = new AbortController();

const chosen = () => [$("run").value, $("other").value].filter(Boolean);
const runOf = (view) => state.info.runs.find((each) => each.name === views.get(view).run);
const banded = () => chosen().filter((view) => views.get(view).adapter && runOf(view).band);
const shown = () => document.querySelector("[name=show]:checked").value;
const isBand = () => ["causal", "rest"].includes(shown());

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = false;
  clearTimeout(fail.timer);
  fail.timer = setTimeout(() => ($("error").hidden = true), 7000);
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(typeof told.detail === "string" ? told.detail : `the server answered ${response.status}`);
}

async function pixelsOf(url) {
  const bitmap = await createImageBitmap(await (await fetch(url)).blob(), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function predict() {
  if (!state.file) return;
  const number = ++asked, start = performance.now(), found = new Map();
  stop.abort();
  stop = new AbortController();
  $("status").textContent = "predicting …";
  try {
    for (const view of new Set(chosen())) {
      const { run, adapter } = views.get(view);
      const query = new URLSearchParams({ output: "page", run, adapter });
      if (state.corruption) {
        query.set("corruption", state.corruption);
        query.set("severity", state.severity);
      }
      if (runOf(view).band && adapter) {
        query.set("bands", isBand());
        const moved = state.bands.get(run); // the run's own radii until a slider moves
        if (moved) moved.forEach((radius, i) => query.set(["low", "high"][i], radius));
      }
      const response = await ask(`predict?${query}`, { method: "POST", body: state.file, signal: stop.signal });
      const told = await response.json();
      const layer = { shares: told.shares, sure: told.confidence_mean };
      for (const name of ["image", "labels", "confidence", "causal", "rest"]) {
        if (told[name]) layer[name] = await pixelsOf(told[name]);
      }
      if (number !== asked) return; // a later request is on its way
      found.set(view, layer);
    }
    layers.clear();
    for (const [view, layer] of found) layers.set(view, layer);
    const sure = layers.get(chosen()[0]).sure;
    $("status").textContent =
      `${((performance.now() - start) / 1000).toFixed(1)} s · mean confidence ${(100 * sure).toFixed(0)} %`;
    $("empty").hidden = true;
    $("view").hidden = false;
    $("save").disabled = false;
    legend();
    draw();
  } catch (error) {
    if (number !== asked || error.name === "AbortError") return;
    $("status").textContent = "";
    fail(error.message);
  }
}

function viridis(value) {
  const at = Math.min(2.999, (value / 255) * 3), i = Math.floor(at), part = at - i;
  return VIRIDIS[i].map((low, c) => low + part * (VIRIDIS[i + 1][c] - low));
}
const RAMP = Array.from({ length: 256 }, (_, value) => viridis(value));

// Mix one row range of a layer into `target`, from column `from` to `to`.
function paint(target, layer, palette, how, from, to) {
  const { image, labels, confidence } = layer, width = image.width, band = layer[how];
  const isImage = how === "image" || (!band && !["classes", "confidence"].includes(how));
  const opacity = isImage ? 0 : $("opacity").value / 100;
  for (let y = 0; y < image.height; y++) {
    for (let x = from; x < to; x++) {
      const i = 4 * (y * width + x), id = labels.data[i];
      const colour = how === "confidence" ? RAMP[confidence.data[i]]
        : how === "classes" || isImage ? palette[id] : band.data.subarray(i, i + 3);
      const part = how === "classes" && state.hidden.has(id) ? 0 : opacity;
      for (let c = 0; c < 3; c++) {
        target.data[i + c] = (1 - part) * image.data[i + c] + part * (colour ? colour[c] : 0);
      }
      target.data[i + 3] = 255;
    }
  }
}

function draw() {
  const [left, right] = chosen(), first = layers.get(left);
  if (!first) return;
  const second = right ? layers.get(right) : null;
  if (right && !second) return;
  const { width, height } = first.image, canvas = $("canvas");
  canvas.width = width;
  canvas.height = height;
  $("view").style.setProperty("--ratio", width / height);
  const context = canvas.getContext("2d"), target = context.createImageData(width, height);
  const cut = Math.round(width * state.wipe), how = shown();
  const palette = (view) => runOf(view).palette;
  if (second) {
    paint(target, first, palette(left), how, 0, cut);
    paint(target, second, palette(right), how, cut, width);
  } else { // the image alone on one side, what is shown on the other
    paint(target, first, palette(left), "image", 0, cut);
    paint(target, first, palette(left), how, cut, width);
  }
  context.putImageData(target, 0, 0);
  $("wipe").style.left = `${100 * state.wipe}%`;
  $("wipe").setAttribute("aria-valuenow", Math.round(100 * state.wipe));
  $("left").textContent = second ? left : "image";
  $("right").textContent = second ? right : how === "causal" ? "band" : how;
}

function legend() {
  const view = chosen()[0], run = runOf(view);
  const shares = (layers.get(view) || {}).shares || {};
  $("of").textContent = chosen().length > 1 ? `of ${view}` : "";
  const order = run.classes.map((name, id) => ({ name, id, share: shares[name] || 0 }));
  order.sort((a, b) => b.share - a.share || a.id - b.id);
  $("legend").replaceChildren(...order.map(({ name, id, share }) => {
    const item = document.createElement("li"), label = document.createElement("label");
    const box = document.createElement("input"), chip = document.createElement("i");
    const text = document.createElement("span"), number = document.createElement("b");
    box.type = "checkbox";
    box.checked = !state.hidden.has(id);
    box.onchange = () => {
      state.hidden[box.checked ? "delete" : "add"](id);
      draw();
    };
    chip.style.background = `rgb(${run.palette[id].join(",")})`;
    text.textContent = name.replaceAll("_", " ");
    number.textContent = share ? `${(100 * share).toFixed(1)} %` : "–";
    label.className = share ? "" : "none";
    label.append(box, chip, text, number);
    item.append(label);
    return item;
  }));
}

function take(file) {
  if (!file) return;
  const most = state.info.limits.bytes;
  if (file.size > most) return fail(`the file has ${(file.size / 1e6).toFixed(0)} MB, ${most / 1e6} are allowed`);
  state.file = file;
  predict();
}

function moveWipe(event) {
  const box = $("canvas").getBoundingClientRect();
  state.wipe = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  requestAnimationFrame(draw);
}

function listen() {
  document.querySelectorAll("[data-open]").forEach((each) => (each.onclick = () => $("file").click()));
  document.querySelectorAll("[data-photo]").forEach((each) => (each.onclick = () => $("photo").click()));
  for (const id of ["file", "photo"]) $(id).onchange = (event) => take(event.target.files[0]);
  addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
  const stage = $("stage");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    stage.addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
  $("view").onpointerdown = (event) => {
    $("view").setPointerCapture(event.pointerId);
    moveWipe(event);
  };
  $("view").onpointermove = (event) => event.buttons && moveWipe(event);
  $("opacity").oninput = () => {
    $("opacity_value").textContent = `${$("opacity").value} %`;
    draw();
  };
  $("severity").oninput = () => ($("severity_value").textContent = $("severity").value);
  $("severity").onchange = () => setSeverity(Number($("severity").value));
  for (const each of document.querySelectorAll("[name=show]")) {
    each.onchange = () => {
      $("scale").hidden = shown() !== "confidence";
      if (isBand() && ![...layers.values()].some((layer) => layer.causal)) predict();
      else draw();
    };
  }
  $("run").onchange = $("other").onchange = () => {
    state.hidden.clear();
    setBand();
    predict();
  };
  for (const id of ["low", "high"]) {
    $(id).oninput = () => {
      const [low, high] = [Number($("low").value), Number($("high").value)];
      if (low >= high) $(id).value = id === "low" ? high - 0.05 : low + 0.05;
      $(`${id}_value`).textContent = Number($(id).value).toFixed(2);
    };
    $(id).onchange = () => {
      const moved = [Number($("low").value), Number($("high").value)];
      for (const view of banded()) state.bands.set(views.get(view).run, moved);
      predict();
    };
  }
  $("save").onclick = () => {
    const link = document.createElement("a");
    link.download = "prediction.png";
    link.href = $("canvas").toDataURL("image/png");
    link.click();
  };
  addEventListener("keydown", key);
}

function setSeverity(severity) {
  state.severity = severity;
  $("severity").value = severity;
  $("severity_value").textContent = severity;
  if (state.corruption) predict();
}

// Offer the band where a run has one, from its own radii on.
function setBand() {
  const run = banded().map(runOf)[0];
  for (const each of document.querySelectorAll(".band")) each.hidden = !run;
  if (!run && isBand()) show("classes");
  if (!run || run.name === setBand.name_of_run) return;
  setBand.name_of_run = run.name;
  ["low", "high"].forEach((id, i) => {
    const radius = (state.bands.get(run.name) || run.band)[i];
    $(id).value = radius;
    $(`${id}_value`).textContent = radius.toFixed(2);
  });
}

function show(value) {
  const now = shown() === value ? "classes" : value;
  const box = document.querySelector(`[name=show][value=${now}]`);
  box.checked = true;
  box.onchange();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const steps = { ArrowLeft: -0.02, ArrowRight: 0.02 };
  if (event.key in steps && !event.target.matches("input")) {
    state.wipe = Math.min(1, Math.max(0, state.wipe + steps[event.key]));
    draw();
  } else if (event.key === "c") show("confidence");
  else if (event.key === "i") show("image");
  else if (event.key === "b" && banded().length) show("causal");
  else if (event.key === "o") $("file").click();
  else if (/^[1-5]$/.test(event.key)) setSeverity(Number(event.key));
}

function chip(name, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.dataset.name = name;
  button.setAttribute("aria-pressed", String(state.corruption === name));
  button.onclick = () => {
    state.corruption = name;
    for (const each of $("corruptions").children) {
      each.setAttribute("aria-pressed", String(each.dataset.name === name));
    }
    predict();
  };
  return button;
}

async function start() {
  state.info = await (await ask("info")).json();
  for (const { name, adapter } of state.info.runs) {
    views.set(name === adapter || !adapter ? name : `${name} (${adapter})`, { run: name, adapter: true });
    if (adapter) views.set(`${name} without its adapter`, { run: name, adapter: false });
  }
  const options = () => [...views.keys()].map((view) => new Option(view));
  $("run").replaceChildren(...options());
  $("other").replaceChildren(new Option("the image", ""), ...options());
  const second = state.info.runs[1];
  if (second) $("other").value = [...views].find(([, view]) => view.run === second.name)[0];
  setBand();
  const named = state.info.page_corruptions.map((name) => chip(name, NAMES[name] || name));
  $("corruptions").replaceChildren(chip("", "none"), ...named);
  legend();
  listen();
  for (let i = 0; i < state.info.examples; i++) {
    const blob = await (await ask(`example/${i}`)).blob();
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    image.src = URL.createObjectURL(blob);
    image.alt = `Synthetic street ${i + 1}`;
    button.append(image);
    button.onclick = () => take(blob);
    $("examples").append(button);
  }
}

start().catch((error) => fail(error.message));
