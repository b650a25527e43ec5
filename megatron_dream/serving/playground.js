"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const [form, canvas, text, run, stop, status] =
    ["form", "canvas", "text", "run", "stop", "status"].map(byId);
  const WHOLE = ["max_tokens", "steps", "block_length", "seed"];
  let abort = null;

  // Characters that steer (control, direction, invisible) are spelled out; line breaks and tabs stay.
  const harmless = (raw) => raw.replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, (c) =>
    c === "\n" || c === "\t" ? c : `\\u{${c.codePointAt(0).toString(16)}}`);

  const make = (value, name) => {
    const span = document.createElement("span");
    span.textContent = value;
    span.className = name;
    canvas.append(span);
    return span;
  };

  const say = (sentence, isBad) => {
    status.textContent = harmless(sentence);
    status.className = isBad ? "bad" : "";
  };

  const request = () => {
    const prompt = byId("prompt").value;
    const body = byId("mode").value === "prompt"
      ? { prompt } : { messages: [{ role: "user", content: prompt }] };
    for (const name of WHOLE) if (byId(name).value) body[name] = Number(byId(name).value);
    for (const name of ["alg", "cache"]) body[name] = byId(name).value;
    body.temperature = Number(byId("temperature").value);
    return body;
  };

  // Early blue, late red, by way of green and yellow; light enough for dark letters.
  const colour = (share) => {
    const stops = [[215, 85, 78], [160, 60, 74], [50, 90, 74], [15, 90, 74]];
    const place = Math.min(1, share) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const mix = stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (place - low));
    return `hsl(${mix[0]} ${mix[1]}% ${mix[2]}%)`;
  };

  const player = (prompt) => {
    let spans = [], steps = 1;
    const close = (span) => {
      span.textContent = "\u2588";
      span.className = "mask";
      span.style.backgroundColor = "";
    };
    return (line) => {
      if (line.error) throw new Error(line.error.message);
      if (line.masks) {
        steps = line.steps;
        canvas.replaceChildren();
        make(harmless(prompt), "given");
        spans = Array.from({ length: line.masks }, () => make("\u2588", "mask"));
        byId("seed").placeholder = `${line.seed}`;
      }
      for (const [position, token] of line.opened || []) {
        const span = spans[position];
        span.textContent = harmless(token);
        span.className = "token";
        span.title = `step ${line.step + 1}`;
        span.style.backgroundColor = colour(line.step / Math.max(1, steps - 1));
      }
      for (const position of line.closed || []) close(spans[position]);
      if (line.opened) say(`step ${line.step + 1} of ${steps}`);
      if (line.text !== undefined) {
        text.textContent = harmless(line.text);
        say(`${line.finish_reason}: ${line.num_forward} forward passes`);
      }
      if (line.done) canvas.dataset.done = "true";
    };
  };

  const lines = async function* (response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  };

  const generate = async () => {
    abort = new AbortController();
    run.disabled = true;
    stop.disabled = false;
    text.textContent = "";
    delete canvas.dataset.done;
    say("waiting");
    const headers = { "Content-Type": "application/json" };
    if (byId("key").value) headers.Authorization = `Bearer ${byId("key").value}`;
    try {
      const body = request();
      const response = await fetch("/v1/states", {
        method: "POST", headers, body: JSON.stringify(body), signal: abort.signal,
      });
      if (!response.ok) throw new Error((await response.json()).error.message);
      const show = player(byId("prompt").value);
      for await (const line of lines(response)) show(line);
    } catch (error) {
      if (error.name === "AbortError") say("stopped");
      else say(error.message, true);
    } finally {
      run.disabled = false;
      stop.disabled = true;
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  stop.addEventListener("click", () => abort.abort());
  byId("alg").value = "entropy";
  if (location.hash === "#run") generate();
})();
