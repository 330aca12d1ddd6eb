// The playground's canvas, buttons and bars; net.js computes.
(() => {
  "use strict";
  const root = document.getElementById("playground");
  const find = (name) => root.querySelector(name);
  const make = (tag, name = "", text = "") => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.textContent = text;
    return element;
  };

  const about = JSON.parse(find(".data").textContent);
  const { side, classes } = about;
  const images = about.images.map(Net.bytes);
  const nets = about.nets.map((net) => ({ ...net, side, weights: net.weights.map(Net.halves) }));
  const paper = find(".paper");
  const ink = paper.getContext("2d", { willReadFrequently: true });
  const [penMark, answer, what] = [find(".pen"), find(".answer"), find(".what")];
  const WIDTH = paper.width / 13; // of a stroke: about two pixels and a half of an image, as in the data
  const STEP = 10; // of an arrow key

  // Grey images, ink dark on white: as the figures of the page show them.
  function show(canvas, pixels) {
    canvas.width = canvas.height = side;
    const picture = new ImageData(side, side);
    pixels.forEach((value, i) => picture.data.set([0, 0, 0, value], 4 * i));
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  // The answers

  const cards = nets.map((net) => {
    const card = make("article", "net");
    const bars = make("ul", "bars");
    const rows = classes.map((name) => {
      const row = make("li");
      const track = make("span", "track");
      const [bar, spread, number] = [make("span", "bar"), make("span", "spread"), make("span", "number")];
      track.append(bar, spread);
      row.append(make("span", "class", name), track, number);
      bars.append(row);
      return { row, bar, spread, number };
    });
    const says = make("p", "says");
    card.append(make("h3", "", net.name), says, bars);
    find(".nets").append(card);
    return { card, says, rows };
  });
  root.style.setProperty("--p-words", `${Math.max(...classes.map((name) => name.length)) * 0.55 + 0.7}rem`);

  const percent = (value) => `${(100 * value).toFixed(value > 0.0005 && value < 0.0995 ? 1 : 0)} %`;
  const best = (values) => values.indexOf(Math.max(...values));

  // Of a network: the mean probability of each class over its seeds, the lowest, the highest, and each seed's class.
  function ask(net, pixels) {
    const seeds = net.weights.map((_, seed) => Net.softmax(Net.logits(net, seed, pixels)));
    const over = (join) => classes.map((_, k) => join(seeds.map((one) => one[k] ?? 0))); // a net may have fewer logits
    const mean = over((values) => values.reduce((a, b) => a + b) / values.length);
    return {
      mean,
      low: over((values) => Math.min(...values)),
      high: over((values) => Math.max(...values)),
      top: best(mean),
      votes: seeds.map(best),
    };
  }

  // The class that most networks say, or none where two are said equally often.
  function commonest(tops) {
    const counts = classes.map((_, k) => tops.filter((top) => top === k).length);
    const most = Math.max(...counts);
    return counts.filter((count) => count === most).length > 1 ? null : counts.indexOf(most);
  }

  function votesText({ votes, top, mean }) {
    const others = [...new Set(votes.filter((vote) => vote !== top))].map((vote) => classes[vote]);
    if (votes.length === 1) return ` at ${percent(mean[top])}`;
    const agree = votes.filter((vote) => vote === top).length;
    return `: ${agree} of ${votes.length} seeds${others.length ? ` (others: ${others.join(", ")})` : ""}`;
  }

  function draw(card, said, odd) {
    card.card.classList.toggle("odd", Boolean(odd));
    card.says.replaceChildren();
    if (said) {
      card.says.append(make("b", "", `${odd ? "≠ " : ""}${classes[said.top]}`), votesText(said));
    }
    card.rows.forEach(({ row, bar, spread, number }, k) => {
      row.className = said && said.top === k ? "top" : "";
      bar.style.width = said ? `${100 * said.mean[k]}%` : 0;
      spread.hidden = !said || said.high[k] - said.low[k] < 0.005;
      if (said) {
        spread.style.left = `${100 * said.low[k]}%`;
        spread.style.width = `${100 * (said.high[k] - said.low[k])}%`;
      }
      number.textContent = said ? percent(said.mean[k]) : "";
    });
  }

  let waiting = null;
  let truth = null; // words about the image shown, or null

  function respond(pixels) {
    show(find(".image"), pixels);
    const blank = !pixels.some(Boolean);
    const said = blank ? [] : nets.map((net) => ask(net, pixels));
    const common = commonest(said.map(({ top }) => top));
    const agree = new Set(said.map(({ top }) => top)).size < 2;
    cards.forEach((card, n) => draw(card, said[n], !agree && said[n].top !== common));
    answer.classList.toggle("odd", !agree);
    const words = blank ? INVITATION : sentence(said.map(({ top }) => classes[top]), agree);
    if (answer.textContent !== words) answer.textContent = words; // else a screen reader says it again
    what.textContent = truth || `What the networks see${blank ? "." : `: ${side} × ${side} pixels, scaled and centred as the data is.`}`;
  }

  const INVITATION = about.draws ? "Draw a digit." : "Choose a test image, or drop a picture.";

  function sentence(tops, agree) {
    if (nets.length === 1) return `${nets[0].name} says ${tops[0]}.`;
    const who = (top) => nets.filter((_, n) => tops[n] === top).map(({ name }) => name);
    if (!agree) return `They disagree: ${[...new Set(tops)].map((top) => `${top} (${who(top).join(", ")})`).join(", ")}.`;
    return `${nets.length === 2 ? "Both" : `All ${nets.length}`} say ${tops[0]}.`;
  }

  // What is drawn, darkest 255.
  function drawn() {
    const { data } = ink.getImageData(0, 0, paper.width, paper.height);
    return Uint8Array.from({ length: paper.width * paper.height }, (_, i) => data[4 * i + 3]);
  }

  const respondToInk = () => respond(Net.place(drawn(), paper.width, paper.height, about.place));

  function soon() {
    waiting ??= setTimeout(() => {
      waiting = null;
      respondToInk();
    }, 40);
  }

  // Test images

  let shown = null; // number of the test image on the canvas, or null

  function wipe() {
    clearTimeout(waiting);
    waiting = shown = truth = null;
    ink.clearRect(0, 0, paper.width, paper.height);
    thumbs.forEach((thumb) => thumb.setAttribute("aria-pressed", "false"));
  }

  // An image on the canvas, and what the networks say of it.
  function put(pixels, words) {
    const copy = make("canvas");
    show(copy, pixels);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(copy, 0, 0, paper.width, paper.height);
    truth = words;
    respond(pixels);
  }

  function take(number) {
    wipe();
    shown = number;
    thumbs[number].setAttribute("aria-pressed", "true");
    put(images[number], `A test image: ${classes[about.labels[number]]}.`);
  }

  const thumbs = images.map((pixels, number) => {
    const button = make("button");
    const canvas = make("canvas");
    button.type = "button";
    button.setAttribute("aria-label", `Test image ${number + 1}: ${classes[about.labels[number]]}`);
    show(canvas, pixels);
    button.append(canvas);
    button.addEventListener("click", () => take(number));
    find(".strip").append(button);
    return button;
  });

  let next = -1;
  find(".next").addEventListener("click", () => {
    next = ((shown ?? next) + 1) % images.length;
    take(next);
  });
  find(".clear").addEventListener("click", () => {
    wipe();
    respondToInk();
  });

  // Drawing

  let pen = null; // where the pointer drew last
  let pointer = null; // which one: a second finger or a palm draws nothing

  function line([fromX, fromY], [x, y]) {
    if (shown !== null || truth) wipe();
    Object.assign(ink, { lineWidth: WIDTH, lineCap: "round", strokeStyle: "#000" });
    ink.beginPath();
    ink.moveTo(fromX, fromY);
    ink.lineTo(x, y);
    ink.stroke();
    soon();
  }

  const pointOf = (event) => {
    const box = paper.getBoundingClientRect();
    return [((event.clientX - box.left) * paper.width) / box.width, ((event.clientY - box.top) * paper.height) / box.height];
  };

  if (about.draws) {
    paper.addEventListener("pointerdown", (event) => {
      if (event.button || pointer !== null) return;
      event.preventDefault();
      pointer = event.pointerId;
      if (event.isTrusted) paper.setPointerCapture(event.pointerId);
      pen = pointOf(event);
      line(pen, pen);
    });
    paper.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer) return;
      for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const to = pointOf(each);
        line(pen, to);
        pen = to;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      paper.addEventListener(end, (event) => {
        if (event.pointerId === pointer) pointer = null;
      });
    }
  }

  let cursor = [paper.width / 2, paper.height / 4];
  const mark = (on) => {
    penMark.hidden = !on;
    [penMark.style.left, penMark.style.top] = cursor.map((at) => `${(100 * at) / paper.width}%`);
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  paper.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (event.key === "Delete" || event.key === "Backspace") find(".clear").click();
    else if (event.key === "n") find(".next").click();
    else if (!arrow || !about.draws) return;
    else {
      const to = cursor.map((at, axis) => Math.min(paper.width, Math.max(0, at + STEP * arrow[axis])));
      if (!event.shiftKey) line(cursor, to);
      cursor = to;
      mark(true);
    }
    event.preventDefault();
  });
  paper.addEventListener("blur", () => mark(false));
  const keys = about.draws
    ? "Draw with the mouse, a finger or the arrow keys (with Shift the pen is up); Delete clears, n takes the next test image."
    : "n takes the next test image, Delete clears.";
  const legend = nets.some(({ weights }) => weights.length > 1)
    ? "A bar is the mean probability over the seeds, the line on it goes from the lowest seed to the highest."
    : "A bar is the probability of a class.";
  find(".keys").textContent = `${legend} ${keys} A picture file may also be dropped on the drawing area.`;

  // Picture files. Of data that are light on black: whatever the picture's ground, what differs from its border is ink, scaled
  // to the canvas. Of other data: the picture, scaled to the size of theirs.

  const greys = ({ data }) =>
    Float32Array.from({ length: data.length / 4 }, (_, i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);

  function painted(picture, w, h) {
    const canvas = Object.assign(make("canvas"), { width: w, height: h });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // under what is transparent
    context.fillRect(0, 0, w, h);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, w, h);
    return context;
  }

  async function open(file) {
    const picture = await createImageBitmap(file).catch(() => null);
    wipe();
    if (!picture) {
      respondToInk();
      answer.textContent = `${file.name} is no picture that this browser can read.`;
      return;
    }
    if (!about.onBlack) {
      const pixels = greys(painted(picture, side, side).getImageData(0, 0, side, side)).map(Math.round);
      put(Uint8Array.from(pixels), `${file.name}, scaled to ${side} × ${side} pixels.`);
      return;
    }
    const scale = paper.width / Math.max(picture.width, picture.height);
    const [w, h] = [picture.width, picture.height].map((length) => Math.max(1, Math.round(length * scale)));
    const context = painted(picture, w, h);
    const grey = greys(context.getImageData(0, 0, w, h));
    const border = grey.filter((_, i) => i < w || i >= w * (h - 1) || i % w === 0 || i % w === w - 1).sort();
    const ground = border[border.length >> 1];
    const away = grey.map((value) => Math.abs(value - ground));
    const most = away.reduce((a, b) => Math.max(a, b), 1);
    const stencil = context.createImageData(w, h);
    // A tenth of the contrast is paper and noise.
    away.forEach((value, i) => (stencil.data[4 * i + 3] = 255 * Math.max(0, (value / most - 0.1) / 0.9)));
    context.putImageData(stencil, 0, 0);
    ink.drawImage(context.canvas, (paper.width - w) / 2, (paper.height - h) / 2);
    truth = `${file.name}, scaled and centred as the data is.`;
    respondToInk();
  }

  find(".file input").addEventListener("change", (event) => {
    if (event.target.files[0]) open(event.target.files[0]);
    event.target.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    paper.addEventListener(kind, (event) => {
      event.preventDefault();
      paper.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
    });
  }

  respondToInk();
  root.nets = nets; // for tests, and for the curious
})();
