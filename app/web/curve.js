// One job's losses as a picture: train/loss for every iteration, val/loss after every epoch.

import uPlot from "/web/vendor/uPlot.esm.js";

const SHOWN = ["train/loss", "val/loss"];
// Beyond this many points a series keeps the lowest and the highest of every four; the table below has the exact ends.
const MOST = 8000;

export class Curve {
  constructor(element) {
    this.element = element;
    this.log = false;
    this.pending = false;
    this.clear();
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  clear() {
    this.series = new Map(SHOWN.map((name) => [name, { steps: [], values: [] }]));
    this.draw();
  }

  add(seriesList) {
    for (const { name, steps, values } of seriesList) {
      const held = this.series.get(name);
      if (!held) continue;
      for (let i = 0; i < steps.length; i++) {
        held.steps.push(steps[i]);
        held.values.push(typeof values[i] === "number" ? values[i] : null); // "NaN", "Infinity": a gap
      }
      if (held.steps.length > MOST) this.series.set(name, thin(held));
    }
    this.draw();
  }

  truncate(after) {
    for (const held of this.series.values()) {
      const keep = held.steps.filter((step) => step <= after).length;
      held.steps.length = held.values.length = keep;
    }
    this.draw();
  }

  setLog(on) {
    this.log = on;
    this.rebuild();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.plot ??= new uPlot(this.options(), [[], [], []], this.element);
      this.plot.setData(this.data());
    });
  }

  data() {
    const tables = SHOWN.map((name) => {
      const held = this.series.get(name);
      // A logarithm has no place for zero and below.
      const values = this.log ? held.values.map((v) => (v !== null && v > 0 ? v : null)) : held.values;
      return [held.steps, values];
    });
    return uPlot.join(tables);
  }

  size() {
    return { width: Math.max(this.element.clientWidth, 200), height: 320 };
  }

  options() {
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("span");
    this.element.append(probe);
    const color = (name) => {
      probe.style.color = style.getPropertyValue(name);
      return getComputedStyle(probe).color;
    };
    const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    const options = {
      ...this.size(),
      scales: { x: { time: false }, y: { distr: this.log ? 3 : 1 } },
      axes: [{ ...axis, label: "iteration", labelSize: 20 }, { ...axis, size: 64 }],
      series: [
        { label: "iteration" },
        { label: "train/loss", stroke: color("--train"), width: 1, spanGaps: true, points: { show: false } },
        { label: "val/loss", stroke: color("--val"), width: 2, spanGaps: true, points: { size: 5 } },
      ],
    };
    probe.remove();
    return options;
  }
}

function thin({ steps, values }) {
  const kept = { steps: [], values: [] };
  const keep = (i) => {
    kept.steps.push(steps[i]);
    kept.values.push(values[i]);
  };
  for (let start = 0; start < steps.length; start += 4) {
    const end = Math.min(start + 4, steps.length);
    let low = start, high = start;
    for (let i = start; i < end; i++) {
      if (values[i] === null) continue;
      if (values[low] === null || values[i] < values[low]) low = i;
      if (values[high] === null || values[i] > values[high]) high = i;
    }
    keep(Math.min(low, high));
    if (low !== high) keep(Math.max(low, high));
  }
  return kept;
}
