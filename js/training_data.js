// A training run as the server tells it: its history by an address, what is new by the websocket.

import { api } from "../../scripts/api.js";

export const EVENT = "multi_ipadapter.training";
export const VALIDATION = ["matched", "none", "shuffled"];
export const CURVES = ["loss", ...VALIDATION, "learning_rate"];
const MOST_POINTS = 4000; // of a curve; then neighbours are joined

// As the server names a run's folder.
export function runOf(name) {
  return name.replace(/\.safetensors$/, "");
}

export class TrainingData {
  // `onChange` is called after every change.
  constructor(onChange) {
    this.onChange = onChange;
    this.waiting = null; // events that came while the history is under way
    this.stamp = 0; // of the newest history: a run that began anew has other previews
    this.clear("");
  }

  clear(run) {
    Object.assign(this, { run, step: 0, steps: 0, previews: [], status: null, refusal: null });
    for (const name of CURVES) this[name] = [];
  }

  get isEmpty() {
    return !this.loss.length && !this.matched.length && !this.status;
  }

  // Show a run; the one that is shown is only brought up to date.
  async open(run) {
    if (run !== this.run) this.clear(run);
    const waiting = (this.waiting = []);
    const { told, refusal } = run ? await readHistory(run) : {};
    if (this.waiting !== waiting) return; // overtaken by another call
    this.waiting = null;
    this.stamp = Date.now();
    this.refusal = refusal ?? null; // the server's words; "" when it says nothing
    Object.assign(this, told ?? {});
    waiting.forEach((event) => this.add(event));
    this.onChange();
  }

  receive(event) {
    if (this.waiting) {
      this.waiting.push(event);
      return;
    }
    this.add(event);
    this.onChange();
  }

  add({ status, begins, losses = [], learning_rate, validation, preview }) {
    this.status = status;
    this.steps = status.steps;
    if (begins) {
      this.open(this.run); // the run's file now begins where this run does
      return;
    }
    this.step = Math.max(this.step, status.step);
    const first = status.step - losses.length + 1;
    losses.forEach((loss, i) => this.point("loss", first + i, loss));
    if (learning_rate !== undefined) this.point("learning_rate", status.step, learning_rate);
    for (const name of VALIDATION) {
      if (validation) this.point(name, validation.step, validation[name]);
    }
    if (preview !== undefined && !this.previews.includes(preview)) this.previews.push(preview);
  }

  // Steps that are there already have come with the history.
  point(name, step, value) {
    const points = this[name];
    if (value === null || (points.length && points.at(-1)[0] >= step)) return;
    points.push([step, value]);
    if (points.length > MOST_POINTS) this[name] = joined(points);
  }

  previewAddress(step) {
    const filename = `preview-${String(step).padStart(8, "0")}.png`;
    const subfolder = `training/${this.run}`;
    const query = new URLSearchParams({ filename, subfolder, type: "output", t: this.stamp });
    return api.apiURL(`/view?${query}`);
  }

  // Interrupt the graph that trains this run, and no other; whether it was found.
  async stop() {
    const prompt = await runningPrompt(this.status.node, this.run);
    if (prompt) await api.interrupt(prompt);
    return Boolean(prompt);
  }

  tableAddress() {
    return api.apiURL(`/multi_ipadapter/training.csv?${new URLSearchParams({ run: this.run })}`);
  }
}

function readHistory(run) {
  return read(`/multi_ipadapter/training?${new URLSearchParams({ run })}`);
}

// Id of the running prompt whose node trains the run; a name may come by a wire.
async function runningPrompt(node, run) {
  const trains = ({ class_type: type, inputs }) =>
    type === "MultiIPAdapter_Train" &&
    (typeof inputs.name !== "string" || runOf(inputs.name) === run);
  const running = (await read("/queue")).told?.queue_running ?? [];
  return running.find(([, , graph]) => graph[node] && trains(graph[node]))?.[1];
}

// {told}, or {refusal}: why not, or "" when the server has no such address or does not answer.
async function read(address) {
  try {
    const answer = await api.fetchApi(address);
    if (answer.ok) return { told: await answer.json() };
    return { refusal: answer.status === 400 ? await answer.text() : "" };
  } catch {
    return { refusal: "" };
  }
}

function joined(points) {
  const pairs = [];
  for (let i = 0; i + 1 < points.length; i += 2)
    pairs.push([points[i + 1][0], (points[i][1] + points[i + 1][1]) / 2]);
  return points.length % 2 ? [...pairs, points.at(-1)] : pairs;
}

// Exponential mean over about 2 % of the points, but no fewer than five.
export function smoothed(points) {
  const weight = 1 - 1 / Math.max(5, 0.02 * points.length);
  let mean = null;
  return points.map(([step, value]) => {
    mean = mean === null ? value : weight * mean + (1 - weight) * value;
    return [step, mean];
  });
}
