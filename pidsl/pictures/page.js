"use strict";
// The page computes its pictures from LOOPS (the keys of each query, per pattern) and DATA; see pidsl/pictures/script.py.
const fd = (a, b) => Math.floor(a / b), md = (a, b) => ((a % b) + b) % b, mn = Math.min, mx = Math.max;
const PIXELS = { willReadFrequently: true };  // pictures are written pixel by pixel
const by = (id) => document.getElementById(id), n = DATA.n;
const number = (x) => x.toLocaleString("en-US");
const plural = (x, what) => `${number(x)} ${what}${x === 1 ? "" : "s"}`;

// What a query attends: visit(first, last, step) for each run of keys, every key in one run.
function keys(pattern, i, visit) {
  for (const part of LOOPS[pattern]) {
    if (part.rows) {
      const runs = part.rows[i];
      for (let k = 0; k < runs.length; k += 2) visit(runs[k], runs[k + 1], 1);
      continue;
    }
    if (part.guard && !part.guard(n, n, i)) continue;
    const first = part.first(n, n, i), last = part.last(n, n, i);
    if (first > last) continue;
    if (!part.inside) { visit(first, last, part.step); continue; }
    let start = -1, end = -1;
    for (let x = first; x <= last; x += part.step) {
      if (!part.inside(n, n, i, x)) continue;
      if (start >= 0 && x === end + 1) { end = x; continue; }
      if (start >= 0) visit(start, end, 1);
      start = end = x;
    }
    if (start >= 0) visit(start, end, 1);
  }
}

function attends(pattern, i, j) {
  let found = false;
  keys(pattern, i, (first, last, step) => { found ||= first <= j && j <= last && (j - first) % step === 0; });
  return found;
}

// The tokens that any of some queries attends in a layer: ends of runs are marked, and summed along the step.
function step(layer, seen) {
  const found = new Uint8Array(n), marks = new Map();
  for (let i = 0; i < n; i++) {
    if (!seen[i]) continue;
    for (const pattern of layer) keys(pattern, i, (first, last, by) => {
      if (by === 1 || last - first < 64 * by) {
        if (by > 1) { for (let x = first; x <= last; x += by) found[x] = 1; return; }
      }
      if (!marks.has(by)) marks.set(by, new Int32Array(n + by + 1));
      const ends = marks.get(by);
      ends[first] += 1;
      ends[last - (last - first) % by + by] -= 1;
    });
  }
  for (const [by, ends] of marks) for (let x = 0; x < n; x++) {
    if (x >= by) ends[x] += ends[x - by];
    if (ends[x] > 0) found[x] = 1;
  }
  return found;
}

// Which tokens at the input reach a token through the first 0, 1, .., layers layers.
function fields(token, layers) {
  const own = new Uint8Array(n), found = [own], schedule = DATA.schedule;
  own[token] = 1;
  for (let last = 1; last <= layers; last++) {
    if (schedule.length === 1) { found.push(step(schedule[0], found[last - 1])); continue; }
    let seen = own;
    for (let layer = last - 1; layer >= 0; layer--) seen = step(schedule[layer % schedule.length], seen);
    found.push(seen);
  }
  return found;
}

// -- colours ----------------------------------------------------------------------------------------------------------
function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16));
}
const mixed = (a, b, t) => a.map((x, k) => Math.round(x + (b[k] - x) * t));
function shade(image, at, share, paper, some, every) {
  const c = share <= 0 ? paper : share >= 1 ? every : mixed(some, every, 0.6 * share);
  image[at] = c[0]; image[at + 1] = c[1]; image[at + 2] = c[2]; image[at + 3] = 255;
}

// -- the mask ---------------------------------------------------------------------------------------------------------
const mask = by("mask"), view = { pattern: 0, row: 0, column: 0, size: n };
let drawing = 0;

function fit() {
  const least = Math.min(n, 8);
  view.size = mx(least, mn(n, view.size));
  view.row = mx(0, mn(n - view.size, view.row));
  view.column = mx(0, mn(n - view.size, view.column));
  mask.classList.toggle("zoomed", view.size < n);
}

function drawMask() {
  fit();
  const side = mx(64, mn(1040, Math.round(mask.clientWidth * mn(2, window.devicePixelRatio || 1))));
  if (mask.width !== side) mask.width = mask.height = side;
  const context = mask.getContext("2d", PIXELS), image = context.createImageData(side, side), data = image.data;
  const paper = colour("--paper"), some = colour("--some"), every = colour("--every");
  const { pattern, row, column, size } = view, mine = ++drawing, large = size <= side;
  const edge = (x) => Math.floor((x * size) / side);  // pixel x shows the tokens edge(x) .. edge(x + 1) - 1 of the view
  const within = (token) => {
    let x = Math.floor((token * side) / size);
    while (x > 0 && edge(x) > token) x--;
    while (x < side - 1 && edge(x + 1) <= token) x++;
    return x;
  };
  const counts = new Float64Array(side + 1), ends = new Float64Array(side + 1);
  function run(a, b) {  // tokens a .. b of the view: whole pixels through `ends`, those at both ends by themselves
    if (large) {
      ends[Math.ceil((a * side) / size)] += 1;
      ends[Math.ceil(((b + 1) * side) / size)] -= 1;
      return;
    }
    const from = within(a), to = within(b);
    if (from === to) { counts[from] += b - a + 1; return; }
    counts[from] += edge(from + 1) - a;
    counts[to] += b - edge(to) + 1;
    ends[from + 1] += 1;
    ends[to] -= 1;
  }
  function strided(a, b, by) {
    if ((b - a) / by < 4 * side) { for (let x = a; x <= b; x += by) run(x, x); return; }
    const below = (x) => mx(0, Math.floor((mn(x - 1, b) - a) / by) + 1);  // how many of them are less than x
    for (let x = 0; x < side; x++) counts[x] += below(edge(x + 1)) - below(edge(x));
  }
  let y = 0;
  function rows(until) {
    for (; y < side && performance.now() < until; y++) {
      const top = row + edge(y), below = mx(top + 1, row + edge(y + 1));
      counts.fill(0);
      ends.fill(0);
      for (let i = top; i < below; i++) keys(pattern, i, (first, last, by) => {
        const a = mx(first, first + Math.ceil((column - first) / by) * by), b = mn(last, column + size - 1);
        if (a > b) return;
        if (by === 1) run(a - column, b - column); else strided(a - column, b - column, by);
      });
      for (let x = 0, running = 0; x < side; x++) {
        running += ends[x];
        const across = mx(1, edge(x + 1) - edge(x));
        const share = large ? running : (counts[x] + running * across) / (across * (below - top));
        shade(data, 4 * (y * side + x), share, paper, some, every);
      }
    }
    return y >= side;
  }
  mask.dataset.drawn = "";
  function slice() {
    if (mine !== drawing) return;
    const done = rows(performance.now() + 40);
    context.putImageData(image, 0, 0);
    if (done) mask.dataset.drawn = "yes"; else requestAnimationFrame(slice);
  }
  slice();
  const span = (from) => `${number(from)} to ${number(from + size - 1)}`;
  by("where").textContent = size >= n ? `all ${number(n)} x ${number(n)} pairs`
    : `queries ${span(row)}, keys ${span(column)}`;
}

function zoom(factor, u = 0.5, v = 0.5) {
  const before = view.size, least = mn(n, 8);
  const after = Math.round(mx(least, mn(n, before * factor)));
  view.column = Math.round(view.column + (before - after) * u);
  view.row = Math.round(view.row + (before - after) * v);
  view.size = after;
  drawMask();
}
function pan(dx, dy) {
  view.column = Math.round(view.column + dx * view.size);
  view.row = Math.round(view.row + dy * view.size);
  drawMask();
}
function place(event) {
  const box = mask.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
function say(i, j) {
  if (i < 0 || j < 0 || i >= n || j >= n) return;
  by("pair").textContent = `query ${number(i)}, key ${number(j)}: ${attends(view.pattern, i, j) ? "attended" : "not attended"}`;
}

by("in").onclick = () => zoom(0.5);
by("out").onclick = () => zoom(2);
by("whole").onclick = () => { Object.assign(view, { row: 0, column: 0, size: n }); drawMask(); };
mask.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey && document.activeElement !== mask) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 0.8 : 1.25, ...place(event));
}, { passive: false });
mask.addEventListener("keydown", (event) => {
  const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => by("whole").click(),
    ArrowLeft: () => pan(-0.25, 0), ArrowRight: () => pan(0.25, 0), ArrowUp: () => pan(0, -0.25), ArrowDown: () => pan(0, 0.25) };
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in act)) return;
  event.preventDefault();
  act[event.key]();
});
const fingers = new Map();
mask.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, place(event));
  if (event.pointerType === "mouse" || view.size < n) mask.setPointerCapture(event.pointerId);
});
mask.addEventListener("pointermove", (event) => {
  const at = place(event), before = fingers.get(event.pointerId);
  say(Math.floor(view.row + at[1] * view.size), Math.floor(view.column + at[0] * view.size));
  if (!before) return;
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
    const factor = apart(before) / mx(0.01, apart(at));
    if (Math.abs(factor - 1) < 0.02) return;
    zoom(factor, (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
  } else if (view.size < n) {
    const moved = [before[0] - at[0], before[1] - at[1]];
    if (mx(...moved.map(Math.abs)) * view.size < 1) return;
    pan(...moved);
  }
  fingers.set(event.pointerId, at);
});
for (const over of ["pointerup", "pointercancel", "lostpointercapture"])
  mask.addEventListener(over, (event) => fingers.delete(event.pointerId));
if (by("pattern")) by("pattern").onchange = (event) => { view.pattern = Number(event.target.value); drawMask(); };

// -- what a token sees ------------------------------------------------------------------------------------------------
const field = by("field"), ROW = 22;
function drawField() {
  const token = Number(by("token").value), layers = Number(by("layers").value);
  const found = fields(token, layers), rows = Number(by("layers").max) + 1;
  const width = mx(64, mn(2080, Math.round(field.clientWidth * mn(2, window.devicePixelRatio || 1))));
  field.style.height = `${ROW * rows}px`;
  field.width = width;
  field.height = ROW * rows;
  by("rows").replaceChildren(...Array.from({ length: rows }, (_, layer) => Object.assign(document.createElement("span"), { textContent: layer })));
  const context = field.getContext("2d", PIXELS), image = context.createImageData(width, rows), data = image.data;
  const line = colour("--edge");
  const paper = colour("--paper"), some = colour("--some"), every = colour("--every"), mark = colour("--mark");
  for (let row = 0; row < rows; row++) {
    const seen = found[row], sums = new Float64Array(n + 1);
    if (seen) for (let x = 0; x < n; x++) sums[x + 1] = sums[x] + seen[x];
    for (let x = 0; x < width; x++) {
      const left = Math.floor((x * n) / width), right = mx(left + 1, Math.floor(((x + 1) * n) / width));
      shade(data, 4 * (row * width + x), seen ? (sums[right] - sums[left]) / (right - left) : 0, paper, some, every);
      if (row === 0 && left <= token && token < right) mark.forEach((c, k) => { data[4 * x + k] = c; });
    }
  }
  const tall = context.createImageData(width, ROW * rows);  // every row as high as its label, a line below it
  for (let y = 0; y < ROW * rows; y++) {
    const from = 4 * width * Math.floor(y / ROW);
    tall.data.set(data.subarray(from, from + 4 * width), 4 * width * y);
    if (y % ROW === ROW - 1) for (let x = 0; x < width; x++) line.forEach((c, k) => { tall.data[4 * (y * width + x) + k] = c; });
  }
  context.putImageData(tall, 0, 0);
  const count = (seen) => seen.reduce((a, b) => a + b, 0), sees = count(found[layers]);
  let far = 0;
  found[layers].forEach((yes, x) => { if (yes) far = mx(far, Math.abs(token - x)); });
  by("seen").textContent = `Token ${number(token)} sees ${plural(sees, "token")} of ${number(n)} through ${plural(layers, "layer")}`
    + (sees ? `, up to ${plural(far, "token")} away.` : ".");
  by("counts").textContent = `After each layer: ${found.map((seen) => number(count(seen))).join(", ")}.`;
  by("token-number").value = token;
  by("layers-number").textContent = layers;
}
let waiting = 0;
const soon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(drawField); };
by("token").oninput = soon;
by("layers").oninput = soon;
by("token-number").onchange = (event) => {
  const value = Math.round(Number(event.target.value));
  by("token").value = Number.isFinite(value) ? mx(0, mn(n - 1, value)) : by("token").value;
  soon();
};

function drawAll() { drawMask(); drawField(); }
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let width = 0;
new ResizeObserver(() => { if (mask.clientWidth !== width) { width = mask.clientWidth; drawAll(); } }).observe(mask);
