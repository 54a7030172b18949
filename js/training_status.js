// Where a run stands, in words and as a share of its steps.

import { complaint } from "./widgets.js";

const ENDS = { finished: "Finished", stopped: "Stopped", failed: "Failed" };

// {text, share: 0..1, bad}: `bad` when something is wrong.
export function statusText(data) {
  const { status, step, steps, run, refusal } = data;
  const share = steps ? Math.min(step / steps, 1) : 0;
  if (refusal) return { ...complaint(refusal), share: 0 };
  if (refusal === "") return { ...complaint("The server tells nothing of this run"), share: 0 };
  if (!status && !step) return { text: run ? `No run “${run}” yet` : "No run yet", share: 0 };
  const place = steps ? `step ${step} of ${steps}` : `step ${step}`;
  if (!status) return { text: capital(place), share };
  if (status.phase === "encoding") return encoding(status);
  if (status.phase in ENDS) return ended(status, place, share);
  if (status.phase === "preparing") return { text: `Preparing “${run}”`, share };
  if (status.phase === "validating") return { text: `${capital(place)} · validating`, share };
  const left = status.seconds_left == null ? "" : ` · ${duration(status.seconds_left)} left`;
  return { text: capital(place) + left, share };
}

// Whether the server trains it now.
export function isRunning({ status }) {
  return Boolean(status) && !(status.phase in ENDS);
}

export function speedText({ status }) {
  const speed = status?.samples_per_second;
  return speed ? `${Number(speed.toPrecision(2))} samples/s` : "";
}

function encoding({ done, count }) {
  return { text: `Encoding pictures: ${done} of ${count}`, share: count ? done / count : 0 };
}

function ended({ phase }, place, share) {
  if (phase === "failed") return { ...complaint(`Failed at ${place}`), share };
  const more = phase === "stopped" ? "; run again to go on" : "";
  return { text: `${ENDS[phase]} at ${place}${more}`, share };
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

// "45 s", "3 min 20 s", "2 h 5 min".
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
