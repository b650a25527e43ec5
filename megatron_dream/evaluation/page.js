"use strict";
(() => {
  const samples = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [tabs, canvas, slider, stepText, play, speed, plot, meta, final] =
    ["tabs", "canvas", "slider", "step", "play", "speed", "plot", "meta", "final"].map(byId);
  const SVG = "http://www.w3.org/2000/svg";
  let sample, spans, dots, lastStep, timer = null;

  const make = (parent, tag, text, name) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  };

  // Early blue, late red, by way of green and yellow; light enough for dark letters.
  const colour = (step) => {
    const stops = [[215, 85, 78], [160, 60, 74], [50, 90, 74], [15, 90, 74]];
    const place = lastStep > 0 ? (step / lastStep) * (stops.length - 1) : 0;
    const low = Math.min(Math.floor(place), stops.length - 2);
    const mix = stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (place - low));
    return `hsl(${mix[0]} ${mix[1]}% ${mix[2]}%)`;
  };

  const maskText = (text) => text.replace(/[^\n]/g, "\u2588").replace(/\n/g, "\u2588\n") || "\u2588";

  const draw = (count) => {
    // `count` steps are done: what opened at step `count - 1` is new.
    sample.tokens.forEach((text, position) => {
      const opened = sample.opened_step[position];
      const span = spans[position];
      const isOpen = opened < count;
      if (opened < 0) return;
      span.textContent = isOpen ? text : maskText(text);
      span.className = isOpen ? (opened === count - 1 ? "token now" : "token") : "mask";
      span.style.backgroundColor = isOpen ? colour(opened) : "";
      span.title = isOpen ? `step ${opened + 1}, confidence ${sample.confidence[position].toFixed(3)}` : "mask";
      dots[position].setAttribute("class", isOpen ? "" : "late");
    });
    slider.value = String(count);
    stepText.textContent = `step ${count} of ${lastStep + 1}`;
    canvas.dataset.done = String(count > lastStep);
  };

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };

  const start = () => {
    if (Number(slider.value) > lastStep) draw(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      draw(Number(slider.value) + 1);
      if (Number(slider.value) > lastStep) {
        canvas.dataset.played = "true";
        stop();
      }
    }, 1000 / Number(speed.value));
  };

  const show = (number) => {
    stop();
    sample = samples[number];
    lastStep = Math.max(0, ...sample.opened_step);
    [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-selected", String(i === number)));
    canvas.replaceChildren();
    make(canvas, "span", sample.prompt_tokens.join(""), "given");
    spans = sample.tokens.map((text, i) =>
      make(canvas, "span", text, sample.opened_step[i] < 0 ? "given" : "token"));
    plot.replaceChildren();
    dots = sample.tokens.map((_, position) => {
      const dot = document.createElementNS(SVG, "circle");
      dot.setAttribute("cx", String(14 + (292 * position) / Math.max(1, sample.tokens.length - 1)));
      const step = Math.max(0, sample.opened_step[position]);
      dot.setAttribute("cy", String(186 - (172 * step) / Math.max(1, lastStep)));
      dot.setAttribute("r", sample.opened_step[position] < 0 ? "0" : "3");
      plot.append(dot);
      return dot;
    });
    meta.replaceChildren();
    for (const [name, value] of Object.entries(sample.meta)) {
      make(meta, "dt", name);
      make(meta, "dd", value);
    }
    final.textContent = sample.text;
    slider.max = String(lastStep + 1);
    draw(lastStep + 1);
  };

  samples.forEach((entry, number) => {
    const tab = make(tabs, "button", entry.meta.function || entry.meta.name || `sample ${number + 1}`);
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => show(number));
  });
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  slider.addEventListener("input", () => { stop(); draw(Number(slider.value)); });
  speed.addEventListener("change", () => { if (timer !== null) { stop(); start(); } });
  show(0);
  if (location.hash === "#play") {
    draw(0);
    start();
  }
})();
