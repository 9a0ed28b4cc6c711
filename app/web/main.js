// The jobs, and one job's live curve. Every text of a user's goes in as textContent, never as markup.

import { follow, json } from "/web/api.js";
import { Curve } from "/web/curve.js";

const REFRESH_MILLISECONDS = 2000;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const $ = (id) => document.getElementById(id);
const curve = new Curve($("chart"));
let open = null; // { id, stop: AbortController, job }

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

function number(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value ?? "");
}

async function refresh() {
  try {
    const jobs = (await json("/v1/jobs?limit=50")).data;
    $("list").replaceChildren(...jobs.map(row));
    $("empty").hidden = jobs.length > 0;
    problem(null);
  } catch (error) {
    problem(error);
  }
}

function row(job) {
  const link = document.createElement("a");
  link.href = `#${job.id}`;
  if (open?.id === job.id) link.setAttribute("aria-current", "true");
  const label = document.createElement("span");
  label.className = "label";
  label.textContent = job.name || job.id;
  const status = document.createElement("span");
  status.className = `status ${job.status}`;
  status.textContent = job.status;
  const bar = document.createElement("progress");
  bar.max = job.progress.iterations || 1;
  bar.value = job.progress.iteration;
  bar.setAttribute("aria-label", `${job.progress.iteration} of ${job.progress.iterations ?? "?"} iterations`);
  link.append(label, status, bar);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

function show(job) {
  open.job = job;
  const { progress } = job;
  $("name").textContent = job.name || job.id;
  $("status").textContent = job.status;
  $("status").className = `status ${job.status}`;
  const over = ENDED.has(job.status);
  $("cancel").hidden = over;
  $("cancel").disabled = job.cancel_requested;
  $("pause").hidden = over || job.pause_requested;
  $("pause").disabled = job.cancel_requested;
  $("resume").hidden = over || !job.pause_requested;
  $("resume").disabled = job.cancel_requested;
  $("again").hidden = !over;
  $("onward").hidden = !over || job.status === "succeeded";
  const facts = [
    `epoch ${progress.epoch} of ${progress.epochs}`,
    `iteration ${progress.iteration}${progress.iterations ? ` of ${progress.iterations}` : ""}`,
    progress.samples_per_second ? `${Math.round(progress.samples_per_second)} rows/s` : null,
    progress.estimated_finish_at ? `ends about ${new Date(progress.estimated_finish_at).toLocaleTimeString()}` : null,
    job.parameters ? `${job.parameters.total} parameters` : null,
    job.device,
    job.pause_requested && job.status === "running" ? "pausing" : null,
    job.waiting,
  ];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  $("failure").hidden = !job.failure;
  $("failure").textContent = job.failure
    ? `${job.failure.reason}: ${job.failure.message}${job.failure.pointer ? ` (at ${job.failure.pointer})` : ""}`
    : "";
  $("spec").textContent = JSON.stringify(job.spec, null, 2);
  $("summary").tBodies[0].replaceChildren(...Object.entries(job.summary).map(summaryRow));
}

function summaryRow([name, ends]) {
  const line = document.createElement("tr");
  for (const text of [name, number(ends.last?.value), number(ends.min?.value), number(ends.max?.value)]) {
    line.insertCell().textContent = text;
  }
  return line;
}

async function enter(id) {
  open?.stop.abort();
  open = null;
  $("job").hidden = !id;
  if (!id) return;
  const mine = { id, stop: new AbortController(), job: null };
  open = mine;
  curve.clear();
  $("output").textContent = "";
  try {
    show(await json(`/v1/jobs/${id}`));
    const whole = await json(`/v1/jobs/${id}/metrics?name=train/loss&name=val/loss&max_points=2000`);
    if (open !== mine) return;
    curve.add(whole.series);
    const logs = await json(`/v1/jobs/${id}/logs`);
    $("output").textContent = logs.lines.join("\n");
    await follow(id, whole.cursor, (type, data) => open === mine && event(type, data), mine.stop.signal);
    if (open === mine) show(await json(`/v1/jobs/${id}`));
  } catch (error) {
    problem(error);
  }
}

// The stream of a job that has ended is closed: it is followed anew.
async function retry(origin) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ from: origin }) };
  try {
    await json(`/v1/jobs/${open.id}/retry`, options);
    enter(open.id);
  } catch (error) {
    problem(error);
  }
}

function event(type, data) {
  if (type === "metrics") curve.add(data.series);
  else if (type === "reset") curve.truncate(data.truncate_after);
  else if (type === "status") show(data);
  else if (type === "log") $("output").textContent += `\n${data.lines.join("\n")}`;
}

$("log").addEventListener("change", (change) => curve.setLog(change.target.checked));
for (const request of ["cancel", "pause", "resume"]) {
  $(request).addEventListener("click", () => json(`/v1/jobs/${open.id}/${request}`, { method: "POST" }).then(show, problem));
}
$("again").addEventListener("click", () => retry("start"));
$("onward").addEventListener("click", () => retry("checkpoint"));
addEventListener("hashchange", () => enter(location.hash.slice(1)).then(refresh));

$("hint").textContent = `curl ${location.origin}/v1/jobs -H 'Content-Type: application/json' -d '{
  "dataset": {"type": "builtin", "name": "iris", "normalize": "standard"},
  "split": {"train": 0.8, "val": 0.2},
  "model": {"type": "Sequential", "layers": [
    {"type": "Linear", "out_features": 32}, {"type": "ReLU"}, {"type": "Linear", "out_features": 3}]},
  "loss": "CrossEntropyLoss",
  "optimizer": {"type": "Adam", "lr": 0.001},
  "batch_size": 16, "epochs": 50}'`;
enter(location.hash.slice(1));
refresh();
setInterval(refresh, REFRESH_MILLISECONDS);
