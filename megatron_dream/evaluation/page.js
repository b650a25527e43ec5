"use strict";
(() => {
  const samples = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [picks, panels, slider, stepText, play, speed, frames, save, picture, tip] =
    ["picks", "panels", "slider", "step", "play", "speed", "frames", "save", "picture", "tip"].map(byId);
  const SVG = "http://www.w3.org/2000/svg";
  const FIRST_SHOWN = 3; // side by side before anything is picked
  let shown = [], lastStep = 0, timer = null;

  const make = (parent, tag, text, name) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  };

  // ---- what a sample looks like after `count` steps

  // Each position: when it was there, and all that happened to it, in order.
  const cellsOf = (sample) => {
    const cells = sample.tokens.map((text, i) => ({
      final: text,
      given: sample.opened_step[i] < 0,
      inserted: sample.inserted_step[i] ?? -1,
      removed: sample.removed_step[i] ?? -1,
      events: [],
    }));
    sample.earlier.forEach((change) => cells[change.position].events.push(change));
    cells.forEach((cell, i) => {
      if (!cell.given) {
        cell.events.push({ step: sample.opened_step[i], text: cell.final, confidence: sample.confidence[i] });
      }
    });
    return cells;
  };

  const lastOf = (sample) => Math.max(0, ...sample.opened_step, ...sample.inserted_step,
    ...sample.removed_step, ...sample.earlier.map((change) => change.step));

  const maskText = (text) => text.replace(/[^\n]/g, "\u2588").replace(/\n/g, "\u2588\n") || "\u2588";

  // What shows of a cell; null: nothing. `now`: it happened in the step that was done last.
  const lookOf = (cell, count) => {
    if (cell.inserted >= count) return null;
    const happened = cell.events.filter((event) => event.step < count);
    const event = happened[happened.length - 1];
    if (cell.removed >= 0 && cell.removed < count) {
      if (cell.removed !== count - 1) return null;
      return { kind: "gone", text: event && event.text !== null ? event.text : "\u2588" };
    }
    if (cell.given) return { kind: "given", text: cell.final };
    const now = event !== undefined && event.step === count - 1;
    if (event !== undefined && event.text !== null) {
      return { kind: now ? "token now" : "token", text: event.text, step: event.step };
    }
    const came = cell.inserted >= 0 && cell.inserted === count - 1 ? " came" : "";
    return { kind: `mask${now ? " again" : came}`, text: maskText(cell.final) };
  };

  const storyOf = (cell, position, count) => {
    const lines = [`position ${position}`];
    if (cell.given) lines.push("given");
    if (cell.inserted >= 0) lines.push(`step ${cell.inserted + 1}: inserted`);
    for (const { step, text, confidence } of cell.events) {
      if (step >= count) break;
      const sure = confidence === null || confidence === undefined ? "" : `, confidence ${confidence.toFixed(3)}`;
      lines.push(`step ${step + 1}: ${text === null ? "masked again" : JSON.stringify(text)}${sure}`);
    }
    if (cell.removed >= 0 && cell.removed < count) lines.push(`step ${cell.removed + 1}: removed`);
    if (lines.length === 1) lines.push("mask");
    return lines.join("\n");
  };

  // Early blue, late red, by way of green and yellow; light enough for dark letters.
  const colour = (step) => {
    const stops = [[215, 85, 78], [160, 60, 74], [50, 90, 74], [15, 90, 74]];
    const place = lastStep > 0 ? (step / lastStep) * (stops.length - 1) : 0;
    const low = Math.min(Math.floor(place), stops.length - 2);
    const mix = stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (place - low));
    return `hsl(${mix[0]} ${mix[1]}% ${mix[2]}%)`;
  };

  // ---- the page

  const count = () => Number(slider.value);
  const nameOf = (number) => samples[number].meta.function || samples[number].meta.name || `sample ${number + 1}`;

  const drawPanel = (panel, steps) => {
    panel.cells.forEach((cell, i) => {
      const look = lookOf(cell, steps), span = panel.spans[i];
      span.hidden = look === null;
      panel.dots[i].setAttribute("class", look !== null && look.step !== undefined ? "" : "late");
      if (look === null) return;
      if (span.textContent !== look.text) span.textContent = look.text;
      span.className = look.kind;
      span.style.backgroundColor = look.step === undefined ? "" : colour(look.step);
    });
    panel.canvas.dataset.done = String(steps > lastStep);
  };

  const draw = (steps) => {
    slider.value = String(steps);
    stepText.textContent = `step ${steps} of ${lastStep + 1}`;
    shown.forEach((panel) => drawPanel(panel, steps));
    if (!tip.hidden) tell(tip.span);
  };

  const tell = (span) => {
    const panel = shown.find((entry) => entry.spans.includes(span));
    if (panel === undefined || span.hidden) { tip.hidden = true; return; }
    const position = panel.spans.indexOf(span);
    tip.textContent = storyOf(panel.cells[position], position, count());
    tip.span = span;
    tip.hidden = false;
    const place = span.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
    const below = place.bottom + 8;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? place.top - tip.offsetHeight - 8 : below}px`;
  };

  const silence = () => { tip.hidden = true; };

  // One stop of the Tab key a canvas; the arrow keys walk from token to token.
  const walk = (panel, event) => {
    const there = panel.spans.filter((span) => !span.hidden);
    const at = there.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: there.length - 1 }[event.key];
    if (event.key === "Escape") silence();
    if (to === undefined || there.length === 0) return;
    event.preventDefault();
    there[Math.max(0, Math.min(to, there.length - 1))].focus();
  };

  const makePlot = (section, cells) => {
    const plot = document.createElementNS(SVG, "svg");
    plot.setAttribute("viewBox", "0 0 320 200");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", "Step of each position");
    section.append(plot);
    return cells.map((cell, position) => {
      const dot = document.createElementNS(SVG, "circle");
      const step = cell.given ? 0 : cell.events[cell.events.length - 1].step;
      dot.setAttribute("cx", String(14 + (292 * position) / Math.max(1, cells.length - 1)));
      dot.setAttribute("cy", String(186 - (172 * step) / Math.max(1, lastStep)));
      dot.setAttribute("r", cell.given ? "0" : "3");
      plot.append(dot);
      return dot;
    });
  };

  const makePanel = (number, isAlone) => {
    const sample = samples[number], cells = cellsOf(sample);
    const section = make(panels, "section", "", isAlone ? "panel alone" : "panel");
    make(section, "h2", nameOf(number));
    const canvas = make(section, "pre", "", "canvas");
    canvas.id = `canvas-${number}`;
    canvas.tabIndex = 0;
    canvas.setAttribute("aria-label", `Canvas of ${nameOf(number)}`);
    make(canvas, "span", sample.prompt_tokens.join(""), "given prompt");
    const spans = cells.map((cell) => make(canvas, "span", cell.final, "token"));
    make(canvas, "span", sample.suffix_tokens.join(""), "given suffix");
    const aside = make(section, "aside", "");
    const dots = makePlot(aside, cells);
    make(aside, "p", "position in the canvas, against the step at which its token appeared", "axis");
    const meta = make(aside, "dl", "");
    for (const [name, value] of Object.entries(sample.meta)) {
      make(meta, "dt", name);
      make(meta, "dd", value);
    }
    const details = make(section, "details", "");
    details.open = isAlone;
    make(details, "summary", "Final text");
    const final = make(details, "pre", sample.text, "final");
    final.id = `final-${number}`;
    final.tabIndex = 0;
    const panel = { number, sample, cells, canvas, spans, dots };
    spans.forEach((span) => { span.tabIndex = -1; });
    canvas.addEventListener("keydown", (event) => walk(panel, event));
    canvas.addEventListener("focusin", (event) => { if (event.target !== canvas) tell(event.target); });
    canvas.addEventListener("focusout", silence);
    canvas.addEventListener("pointerover", (event) => tell(event.target));
    canvas.addEventListener("pointerleave", silence);
    return panel;
  };

  const show = (numbers) => {
    stop();
    silence();
    lastStep = Math.max(...numbers.map((number) => lastOf(samples[number])));
    [...picks.children].forEach((pick, i) => pick.setAttribute("aria-pressed", String(numbers.includes(i))));
    panels.replaceChildren();
    shown = numbers.map((number) => makePanel(number, numbers.length === 1));
    slider.max = String(lastStep + 1);
    frames.max = String(lastStep + 2);
    frames.value = String(Math.min(lastStep + 2, 40));
    draw(lastStep + 1);
  };

  const toggle = (number) => {
    const numbers = shown.map((panel) => panel.number);
    const others = numbers.filter((other) => other !== number);
    if (others.length === numbers.length) others.push(number);
    if (others.length > 0) show(others.sort((a, b) => a - b));
  };

  // ---- the player

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };

  const start = () => {
    if (count() > lastStep) draw(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      draw(count() + 1);
      if (count() > lastStep) {
        panels.dataset.played = "true";
        stop();
      }
    }, 1000 / Number(speed.value));
  };

  // ---- GIF and PNG: the shown canvases drawn as pictures

  const LINE = 20, PAD = 16, FONT = 13, TALLEST = 8000; // browsers draw nothing on much taller ones
  const SWATCHES = 16, SWATCH = 8; // of the ramp that says which colour is which step
  const ground = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const piecesOf = (panel, steps) => [
    { kind: "given", text: panel.sample.prompt_tokens.join("") },
    ...panel.cells.map((cell) => lookOf(cell, steps)).filter((look) => look !== null),
    { kind: "given", text: panel.sample.suffix_tokens.join("") },
  ];

  // Characters with their places in a column `width` wide, and the number of lines.
  const layOut = (pieces, width, measure) => {
    const placed = [];
    let x = 0, line = 0;
    for (const look of pieces) {
      for (const character of look.text.replace(/\t/g, "    ")) {
        if (character === "\n") { [x, line] = [0, line + 1]; continue; }
        const wide = measure(character);
        if (x + wide > width) [x, line] = [0, line + 1];
        placed.push({ character, look, x, line, wide });
        x += wide;
      }
    }
    return { placed, lines: line + 1 };
  };

  const drawPieces = (context, placed, left, top) => {
    for (const { character, look, x, line, wide } of placed) {
      const [px, py] = [left + x, top + line * LINE];
      const isMask = look.kind.startsWith("mask");
      if (isMask || look.step !== undefined) {
        context.fillStyle = isMask ? ground("--mask") : colour(look.step);
        context.fillRect(px, py + 1, wide, LINE - 2);
      }
      const ring = { "mask again": "#c2410c", "mask came": "#15803d", "token now": ground("--accent") }[look.kind];
      if (ring) {
        context.fillStyle = ring;
        context.fillRect(px, py + LINE - 3, wide, 2);
      }
      if (isMask) continue;
      context.fillStyle = look.step === undefined ? ground("--soft") : ground("--ink");
      context.fillText(character, px, py + LINE - 6);
      if (look.kind === "gone") context.fillRect(px, py + LINE / 2, wide, 1);
    }
  };

  const drawRamp = (context, left, top) => {
    for (let i = 0; i < SWATCHES; i += 1) {
      context.fillStyle = colour((i * lastStep) / (SWATCHES - 1));
      context.fillRect(left + i * SWATCH, top + 5, SWATCH, LINE - 9);
    }
    context.fillStyle = ground("--soft");
    context.fillText("first to last", left + SWATCHES * SWATCH + 8, top + LINE - 6);
  };

  // What is shown, after so many steps as it is told; `scale`: pixels of the picture for one of the page.
  const painter = (counts, scale = 1) => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const mono = `${FONT}px "DejaVu Sans Mono", Menlo, Consolas, monospace`;
    const widths = new Map();
    context.font = mono;
    const measure = (character) => {
      if (!widths.has(character)) widths.set(character, Math.ceil(context.measureText(character).width));
      return widths.get(character);
    };
    const columns = Math.min(shown.length, 3);
    const width = measure("m") * [80, 60, 46][columns - 1];
    const tall = shown.map((panel) => Math.max(
      ...counts.map((steps) => layOut(piecesOf(panel, steps), width, measure).lines)));
    const rows = [];
    for (let i = 0; i < shown.length; i += columns) rows.push(Math.max(...tall.slice(i, i + columns)));
    const tops = rows.map((_, i) => 2 * PAD + LINE
      + rows.slice(0, i).reduce((sum, lines) => sum + (lines + 1) * LINE + 2 * PAD, 0));
    const surface = context.canvas;
    surface.width = scale * columns * (width + 2 * PAD);
    const whole = tops[rows.length - 1] + (rows[rows.length - 1] + 1) * LINE + 2 * PAD;
    const height = Math.min(TALLEST, whole);
    surface.height = scale * height;
    context.scale(scale, scale); // for good: a new size has reset all of the context
    context.font = mono;
    const paint = (steps) => {
      context.fillStyle = ground("--bg");
      context.fillRect(0, 0, surface.width, surface.height);
      context.fillStyle = ground("--fg");
      context.fillText(`step ${steps} of ${lastStep + 1}`, PAD, PAD + LINE - 6);
      drawRamp(context, PAD + context.measureText(`step ${lastStep + 1} of ${lastStep + 1}  `).width, PAD);
      shown.forEach((panel, i) => {
        const left = (i % columns) * (width + 2 * PAD) + PAD, top = tops[Math.floor(i / columns)];
        context.fillStyle = ground("--soft");
        context.fillText(nameOf(panel.number), left, top + LINE - 6, width);
        drawPieces(context, layOut(piecesOf(panel, steps), width, measure).placed, left, top + LINE);
      });
      if (whole <= TALLEST) return;
      context.fillStyle = ground("--bg");
      context.fillRect(0, height - LINE, surface.width, LINE);
      context.fillStyle = ground("--soft");
      context.fillText("cut here: the rest does not fit into a picture", PAD, height - 6);
    };
    return { surface, paint, pixels: () => context.getImageData(0, 0, surface.width, surface.height) };
  };

  const download = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  // One picture of the step that is shown, sharp enough to be printed.
  const savePng = () => {
    const { surface, paint } = painter([count()], 2);
    paint(count());
    surface.toBlob((blob) => download(blob, "samples.png"), "image/png");
  };

  const saveGif = async () => {
    const asked = Math.round(Number(frames.value)) || 2;
    const number = Math.max(2, Math.min(asked, lastStep + 2));
    frames.value = String(number);
    const counts = Array.from({ length: number }, (_, i) => Math.round((i * (lastStep + 1)) / (number - 1)));
    const stride = (lastStep + 1) / (number - 1);
    const delay = (i) => (i === number - 1 ? 250 : Math.max(2, Math.round((100 * stride) / Number(speed.value))));
    save.disabled = true;
    const { paint, pixels } = painter(counts);
    const frame = (i) => { paint(counts[i]); return pixels(); };
    try {
      const blob = await Gif.encode(number, frame, delay,
        (done) => { save.textContent = `${done} of ${number}`; });
      download(blob, "samples.gif");
    } finally {
      save.textContent = "Save GIF";
      save.disabled = false;
    }
  };

  samples.forEach((_, number) => {
    const pick = make(picks, "button", nameOf(number));
    pick.type = "button";
    pick.addEventListener("click", () => toggle(number));
  });
  picks.hidden = samples.length < 2;
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  slider.addEventListener("input", () => { stop(); draw(count()); });
  speed.addEventListener("change", () => { if (timer !== null) { stop(); start(); } });
  save.addEventListener("click", () => { stop(); saveGif(); });
  picture.addEventListener("click", () => { stop(); savePng(); });
  show(samples.map((_, number) => number).slice(0, FIRST_SHOWN));
  if (location.hash === "#play") {
    draw(0);
    start();
  }
})();
