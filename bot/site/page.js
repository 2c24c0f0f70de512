// A week's charts, its table of runs and the card of a run, from `sprintbench` (data/weekNN.js) and uPlot. Texts of results are
// untrusted: everything becomes a node or a text, and the page's policy refuses markup made from strings.
"use strict";
(() => {
  const data = sprintbench, { runs, texts, kinds, metrics, links } = data, count = runs.name.length;
  const $ = id => document.getElementById(id);
  const kindOf = i => kinds[runs.kind[i]];
  const place = new Map(runs.name.map((name, i) => [name, i]));
  const changes = new Map(data.changes.map(([i, before, facts]) => [i, { before, facts }]));
  const hidden = new Set();
  const moment = i => runs.started[i].replace("T", " ").replace("Z", "");

  function make(tag, attributes, ...inside) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...inside.filter(part => part !== ""));
    return node;
  }
  const state = i => make("span", { class: `state ${texts[runs.tone[i]]}` }, texts[runs.state[i]]);
  const raw = i => `${links.raw}${runs.name[i]}/result.json`;

  function commit(i) {
    const sha = texts[runs.commit[i]], short = make("code", {}, sha.slice(0, 7));
    return sha && links.commit ? make("a", { href: links.commit + sha }, short) : sha ? short : "";
  }

  // ------------------------------------------------------------------------------------------------ what is in view

  // Runs are evenly spaced, oldest to newest: run i stands at x = i. All charts of a week show the same runs.
  const whole = { min: -0.5, max: count - 0.5 };
  // Of a long history the newest runs come first into view; a pixel for many of them would say little.
  let view = count > 300 ? { min: count - 200.5, max: whole.max } : { ...whole }, picked = -1;
  const plots = new Map(); // figure -> uPlot
  const zoomed = () => view.min > whole.min || view.max < whole.max;

  function look(min, max) {
    const width = Math.min(Math.max(max - min, 2), whole.max - whole.min);
    const from = Math.min(Math.max((min + max - width) / 2, whole.min), whole.max - width);
    view = { min: from, max: from + width };
    redraw();
    tell();
  }
  const number = value => value.toLocaleString("en");
  function tell() {
    const [first, last] = inView();
    $("reset").disabled = !zoomed();
    $("view").textContent = `runs ${number(first + 1)} to ${number(last + 1)} of ${number(count)}`;
  }
  const zoom = (by, at = (view.min + view.max) / 2) => look(at - (at - view.min) * by, at + (view.max - at) * by);
  const redraw = () => { for (const plot of plots.values()) plot.setScale("x", view); };
  const inView = () => [Math.max(0, Math.ceil(view.min)), Math.min(count - 1, Math.floor(view.max))];

  // ------------------------------------------------------------------------------------------------ colours and shapes

  const ink = new Map(), stamps = new Map(); // asked of the page, and painted, once a theme
  const colour = name => ink.get(name) ?? ink.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim()).get(name);
  const shapeOf = key => ({ path: new Path2D(key.querySelector("path").getAttribute("d")), look: key.querySelector("svg").classList[1] });
  const groupShapes = [...document.querySelectorAll("[data-group]")].map(shapeOf);
  const kindShapes = Object.fromEntries([...document.querySelectorAll("[data-kind]")].map(key => [key.dataset.kind, shapeOf(key)]));

  /** A mark as a picture, painted once a theme and copied from then on: a chart may have thousands. */
  function stamped(shape, filled) {
    const name = `${shape.look} ${filled} ${devicePixelRatio}`;
    if (!stamps.has(name)) {
      const stamp = make("canvas", { width: 16 * devicePixelRatio, height: 16 * devicePixelRatio }), ctx = stamp.getContext("2d");
      ctx.scale(devicePixelRatio, devicePixelRatio);
      ctx.translate(8, 8);
      ctx.lineWidth = 1.6;
      ctx.strokeStyle = colour(`--${shape.look}`);
      ctx.fillStyle = filled ? ctx.strokeStyle : colour("--back");
      ctx.fill(shape.path);
      ctx.stroke(shape.path);
      stamps.set(name, stamp);
    }
    return stamps.get(name);
  }
  const mark = (ctx, shape, x, y, filled) => {
    const stamp = stamped(shape, filled);
    ctx.drawImage(stamp, Math.round(x - stamp.width / 2), Math.round(y - stamp.height / 2));
  };

  function clipped(u, paint) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    paint(ctx, bbox);
    ctx.restore();
  }

  // ------------------------------------------------------------------------------------------------ one metric

  /** Whether run i has a mark in the chart of a metric. A failed run that measured nothing has one on the chart's floor. */
  const shows = (metric, i) => !hidden.has(kindOf(i)) && (metric.value[i] !== null || kindOf(i) === "failed");

  /** Room for the trend in view, and for the target while everything is in view; what is not joined only where there is no trend. */
  function span(metric) {
    let low = Infinity, high = -Infinity;
    const reach = (a, b) => { low = Math.min(low, a); high = Math.max(high, b); };
    const [first, last] = inView();
    for (const joined of [true, false]) {
      for (let i = first; i <= last; i++) {
        if (metric.value[i] !== null && (kindOf(i) === "judged") === joined && !hidden.has(kindOf(i))) reach(metric.low[i], metric.high[i]);
      }
      if (low <= high) break;
    }
    if (metric.bound !== null && (!zoomed() || low > high)) reach(metric.bound, metric.bound);
    if (low > high) return [0, 1];
    const room = (high - low) || Math.abs(high) || 1;
    return [low - 0.1 * room, high + 0.1 * room];
  }

  const height = (u, metric, i) => metric.value[i] === null ? u.bbox.top + u.bbox.height - 8 * devicePixelRatio
    : Math.min(Math.max(u.valToPos(metric.value[i], "y", true), u.bbox.top + 6 * devicePixelRatio), u.bbox.top + u.bbox.height - 6 * devicePixelRatio);

  function paintBehind(u, metric) {
    clipped(u, (ctx, box) => {
      const [first, last] = inView(), at = v => u.valToPos(v, "x", true), up = v => u.valToPos(v, "y", true);
      ctx.fillStyle = colour("--band");
      if (metric.limits.length) {
        for (let i = first; i <= last; i++) {
          if (metric.limits[i]) ctx.fillRect(at(i - 0.5), up(metric.limits[i][1]), at(i + 0.5) - at(i - 0.5), up(metric.limits[i][0]) - up(metric.limits[i][1]));
        }
      }
      const upright = (x, ink, dash) => {
        ctx.strokeStyle = ink;
        ctx.setLineDash(dash.map(v => v * devicePixelRatio));
        ctx.beginPath();
        ctx.moveTo(x, box.top);
        ctx.lineTo(x, box.top + box.height);
        ctx.stroke();
      };
      ctx.lineWidth = devicePixelRatio;
      const differing = [...changes.keys()].filter(i => i >= first && i <= last && kindOf(i) === "judged");
      if (differing.length <= 30) for (const i of differing) upright(at(i - 0.5), colour("--line"), [2, 3]);
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      for (const i of data.starts) {
        upright(at(i - 0.5), colour("--soft"), []);
        ctx.fillStyle = colour("--soft");
        ctx.fillText("accepted", at(i - 0.5) + 4 * devicePixelRatio, box.top + 12 * devicePixelRatio);
      }
      if (picked >= first && picked <= last) upright(at(picked), colour("--link"), []);
      if (metric.bound !== null) {
        ctx.strokeStyle = ctx.fillStyle = colour("--soft");
        ctx.lineWidth = 1.5 * devicePixelRatio;
        ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(box.left, up(metric.bound));
        ctx.lineTo(box.left + box.width, up(metric.bound));
        ctx.stroke();
        ctx.fillText(`target ${metric.bound_text}`, box.left + 6 * devicePixelRatio, up(metric.bound) - 5 * devicePixelRatio);
      }
    });
  }

  function paintMarks(u, metric) {
    clipped(u, ctx => {
      const [first, last] = inView(), room = u.bbox.width / devicePixelRatio / (last - first + 1);
      const joined = data.groups.map(() => []), apart = new Map(); // apart: the last place painted of a kind
      for (let i = first; i <= last; i++) if (runs.line[i] >= 0 && metric.value[i] !== null) joined[data.lines[runs.line[i]]].push(i);
      joined.forEach((places, group) => {
        const shape = groupShapes[group];
        ctx.strokeStyle = colour(`--${shape.look}`);
        ctx.globalAlpha = room > 3 ? 0.9 : 0.3;
        ctx.lineWidth = Math.min(1.5, Math.max(0.5, room)) * devicePixelRatio;
        ctx.beginPath();
        for (const i of places) {
          const x = u.valToPos(i, "x", true);
          ctx.moveTo(x, u.valToPos(metric.low[i], "y", true));
          ctx.lineTo(x, u.valToPos(metric.high[i], "y", true));
        }
        ctx.stroke();
        ctx.globalAlpha = 1;
        for (const i of places) if (room > 6 || i === picked) mark(ctx, shape, u.valToPos(i, "x", true), height(u, metric, i), true);
      });
      ctx.globalAlpha = room > 1 ? 1 : 0.4;
      for (let i = first; i <= last; i++) {
        const kind = kindOf(i);
        if (kind === "judged" || !shows(metric, i)) continue;
        const x = u.valToPos(i, "x", true), y = height(u, metric, i), before = apart.get(kind);
        if (before && i !== picked && x - before[0] < 2 && Math.abs(y - before[1]) < 2) continue; // nobody could tell the two apart
        mark(ctx, kindShapes[kind], x, y, false);
        apart.set(kind, [x, y]);
      }
    });
  }

  /** The run with a mark that is nearest to x, within 24 pixels; -1 where there is none. */
  function nearest(u, metric, x) {
    const reach = Math.max(0.5, 24 * (view.max - view.min) / (u.bbox.width / devicePixelRatio)), middle = Math.round(x);
    for (let away = 0; away <= reach; away++) {
      for (const i of [middle - away, middle + away]) if (i >= 0 && i < count && shows(metric, i)) return i;
    }
    return -1;
  }

  function told(metric, i) {
    const lines = [[make("b", {}, runs.name[i]), " ", state(i)]];
    lines.push([metric.shown[i] === null ? "nothing measured" : metric.shown[i]]);
    if (metric.verdict.length && kindOf(i) === "judged") lines.push([`${texts[metric.verdict[i]]}: target ${metric.bound_text}`]);
    if (texts[metric.seen[i]]) lines.push([texts[metric.seen[i]]]);
    lines.push([texts[runs.group[i]]], [`${moment(i)} UTC`, texts[runs.commit[i]] ? ` · ${texts[runs.commit[i]].slice(0, 7)}` : ""]);
    if (texts[runs.failure[i]]) lines.push([texts[runs.failure[i]].slice(0, 120)]);
    for (const [what, before, now] of (changes.get(i) || { facts: [] }).facts.slice(0, 3)) lines.push([`${what}: ${before} → ${now}`]);
    return lines.map(line => make("div", {}, ...line));
  }

  function hint(u, tip, inside, left, top) {
    tip.hidden = !inside;
    if (!inside) return;
    tip.replaceChildren(...inside);
    const width = u.over.clientWidth, x = u.over.offsetLeft + left, y = u.over.offsetTop + Math.min(top, u.over.clientHeight / 2);
    const beside = left > width / 2 ? x - tip.offsetWidth - 12 : x + 12;
    tip.style.left = `${Math.max(0, Math.min(beside, u.root.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${y}px`;
  }

  const axis = more => ({
    stroke: colour("--soft"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18,
    grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1, size: 5 }, ...more,
  });
  const tickWidth = (u, values) => values === null ? 40 : 14 + 7 * Math.max(...values.map(value => String(value).length));

  /** Numbers on an axis, with the decimals that tell neighbours apart. */
  function ticks(u, splits, index, room, apart) {
    const most = Math.max(...splits.map(Math.abs));
    let decimals = 0;  // as many as a step has: one of 0.25 has two
    for (let step = apart; decimals < 12 && Math.abs(step - Math.round(step)) > 1e-6 * step; step = apart * 10 ** decimals) decimals++;
    return splits.map(v => most >= 1e7 || decimals > 6 ? v.toExponential(2) : v.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
  }

  function day(u, splits) {
    const sameDay = runs.started[inView()[0]].slice(0, 10) === runs.started[inView()[1]].slice(0, 10);
    return splits.map(v => Number.isInteger(v) && v >= 0 && v < count ? (sameDay ? runs.started[v].slice(11, 16) : runs.started[v].slice(0, 10)) : "");
  }

  function trend(figure) {
    const metric = metrics[figure.dataset.metric], box = figure.querySelector(".plot"), tip = make("div", { class: "tip", hidden: "" });
    const xs = runs.name.map((_, i) => i);
    const values = data.lines.map((_, line) => metric.value.map((value, i) => runs.line[i] === line ? value : null));
    let at = -1;
    const unit = { "": "value (no unit)", x: "times (x)" }[metric.unit] ?? metric.unit;
    const u = new uPlot({
      width: box.clientWidth, height: box.clientHeight, legend: { show: false }, padding: [8, 36, 0, 0],
      scales: { x: { time: false, auto: false, ...view }, y: { range: () => span(metric) } },
      axes: [axis({ label: "run, oldest to newest (started, UTC)", size: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], values: day, space: 86 }),
        axis({ label: unit, size: tickWidth, values: ticks })],
      series: [{}, ...data.lines.map(group => ({ stroke: colour(`--${groupShapes[group].look}`), width: 1.5, spanGaps: true, points: { show: false } }))],
      cursor: {
        y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 6 },
        bind: { dblclick: () => () => { look(whole.min, whole.max); } },
      },
      hooks: {
        drawAxes: [plot => paintBehind(plot, metric)],
        draw: [plot => paintMarks(plot, metric)],
        setCursor: [plot => {
          at = plot.cursor.left < 0 ? -1 : nearest(plot, metric, plot.posToVal(plot.cursor.left, "x"));
          if (at < 0) hint(plot, tip, null);
          else hint(plot, tip, told(metric, at), plot.valToPos(at, "x"), height(plot, metric, at) / devicePixelRatio - plot.over.offsetTop);
        }],
        setSelect: [plot => {
          const { left, width } = plot.select;
          if (width > 0) {
            const [min, max] = [left, left + width].map(x => plot.posToVal(x, "x"));
            plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            look(min, max);
          }
        }],
      },
    }, [xs, ...values], box);
    u.root.append(tip);
    u.over.addEventListener("click", () => { if (at >= 0) open(at, box); });
    const go = i => {
      if (i < view.min || i > view.max) look(i - (view.max - view.min) / 2, i + (view.max - view.min) / 2);
      u.setCursor({ left: u.valToPos(i, "x"), top: 0 });
      $("said").textContent = tip.innerText;
    };
    return { u, keys: {
      ArrowLeft: () => { for (let i = (at < 0 ? Math.floor(view.max) + 1 : at) - 1; i >= 0; i--) if (shows(metric, i)) return go(i); },
      ArrowRight: () => { for (let i = (at < 0 ? Math.ceil(view.min) - 1 : at) + 1; i < count; i++) if (shows(metric, i)) return go(i); },
      Enter: () => { if (at >= 0) open(at, box); },
      Escape: () => { hint(u, tip, null); at = -1; look(whole.min, whole.max); },
      "+": () => zoom(0.5, at < 0 ? undefined : at), "-": () => zoom(2, at < 0 ? undefined : at),
    } };
  }

  // ------------------------------------------------------------------------------------------------ the roofline

  function roof(figure) {
    const { tflops, gbs, points, groups } = data.roofline, box = figure.querySelector(".plot"), tip = make("div", { class: "tip", hidden: "" });
    const shapes = [...$("roof-legend").querySelectorAll(".key")].map(shapeOf);
    const ridge = tflops * 1000 / gbs, xs = points.map(point => point[2]), ys = points.map(point => point[3]);
    const wide = [Math.min(ridge, ...xs) / 2, Math.max(ridge, ...xs) * 2], tall = [Math.min(...ys) / 2, Math.max(tflops, ...ys) * 1.6];
    const least = tall[0] * 1000 / gbs; // where the slope leaves the floor
    const line = [Math.max(wide[0], least), ridge, wide[1]].sort((a, b) => a - b);
    let at = -1;
    const show = (u, i) => {
      at = i;
      if (i < 0) return hint(u, tip, null);
      const [label, group, x, y, matrix, memory] = points[i];
      const lines = [make("b", {}, label), `${y.toPrecision(3)} TFLOP/s at ${x.toPrecision(3)} FLOP per byte`,
        `${matrix.toPrecision(3)}% of the matrix ceiling`, `${memory.toPrecision(3)}% of the memory ceiling`];
      return hint(u, tip, lines.map(text => make("div", {}, text)), u.valToPos(x, "x"), u.valToPos(y, "y"));
    };
    const round = ([least, most]) => {
      const found = [];
      for (let power = Math.floor(Math.log10(least)); 10 ** power <= most; power++) found.push(...[1, 2, 5].map(v => v * 10 ** power));
      return () => found.filter(v => v >= least && v <= most);
    };
    const all = (u, splits) => splits, labels = (u, splits) => splits.map(v => String(Number(v.toPrecision(3))));
    const u = new uPlot({
      width: box.clientWidth, height: box.clientHeight, legend: { show: false }, padding: [8, 36, 0, 0],
      scales: { x: { time: false, distr: 3, range: wide }, y: { distr: 3, range: tall } },
      axes: [axis({ label: "arithmetic intensity (FLOP per byte)", size: 34, splits: round(wide), filter: all, values: labels }), axis({ label: "TFLOP/s", splits: round(tall), filter: all, values: labels, size: tickWidth })],
      series: [{}, { stroke: colour("--soft"), width: 2, points: { show: false } }],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      hooks: {
        draw: [plot => clipped(plot, ctx => {
          for (const [, group, x, y] of points) mark(ctx, shapes[group], plot.valToPos(x, "x", true), plot.valToPos(y, "y", true), true);
          ctx.fillStyle = colour("--soft");
          ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "right";
          ctx.textBaseline = "alphabetic";
          ctx.fillText("measured ceilings", plot.bbox.left + plot.bbox.width - 6 * devicePixelRatio, plot.valToPos(tflops, "y", true) - 6 * devicePixelRatio);
        })],
        setCursor: [plot => {
          const { left, top } = plot.cursor;
          const away = points.map(point => left < 0 ? Infinity : Math.hypot(plot.valToPos(point[2], "x") - left, plot.valToPos(point[3], "y") - top));
          const best = away.indexOf(Math.min(...away));
          show(plot, away[best] < 24 ? best : -1);
        }],
      },
    }, [line, line.map(x => Math.min(tflops, x * gbs / 1000))], box);
    u.root.append(tip);
    const step = by => { show(u, ((at < 0 ? (by > 0 ? -1 : 0) : at) + by + points.length) % points.length); $("said").textContent = tip.innerText; };
    return { u, keys: { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => show(u, -1) } };
  }

  // ------------------------------------------------------------------------------------------------ drawn when they come into view

  const keysOf = new Map();
  function draw(figure) {
    const { u, keys } = figure.id === "roof" ? roof(figure) : trend(figure);
    if (figure.id !== "roof") plots.set(figure, u);
    keysOf.set(figure, { u, keys });
  }
  const sizes = new ResizeObserver(found => {
    for (const { target } of found) {
      const drawn = keysOf.get(target.parentElement);
      if (drawn && target.clientWidth && target.clientWidth !== drawn.u.width) drawn.u.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  });
  const waiting = new Set(); // one chart a frame, so that the page answers in between
  function drawNext() {
    const [figure] = waiting;
    if (!figure) return;
    waiting.delete(figure);
    draw(figure);
    requestAnimationFrame(drawNext);
  }
  const eye = new IntersectionObserver(found => {
    const idle = !waiting.size;
    for (const { target, isIntersecting } of found) {
      if (isIntersecting && !keysOf.has(target)) waiting.add(target);
      else waiting.delete(target);
    }
    if (idle) drawNext();
  }, { rootMargin: "200px" });

  for (const figure of document.querySelectorAll("figure.chart")) {
    const box = figure.querySelector(".plot");
    eye.observe(figure);
    sizes.observe(box);
    box.addEventListener("keydown", event => {
      const key = keysOf.has(figure) && keysOf.get(figure).keys[event.key];
      if (key) { event.preventDefault(); key(); }
    });
    box.addEventListener("blur", () => { if (keysOf.has(figure)) keysOf.get(figure).u.setCursor({ left: -10, top: -10 }); });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    ink.clear();
    stamps.clear();
    for (const [figure, { u }] of keysOf) { u.destroy(); draw(figure); }
  });

  for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", () => {
    const kind = button.dataset.kind, now = !hidden.delete(kind);
    if (now) hidden.add(kind);
    button.setAttribute("aria-pressed", String(!now));
    redraw();
  });
  for (const button of document.querySelectorAll("[data-range]")) {
    if (button.dataset.range >= count) button.remove();
    button.addEventListener("click", () => look(count - 0.5 - button.dataset.range, count - 0.5));
  }
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  $("reset").addEventListener("click", () => look(whole.min, whole.max));

  // ------------------------------------------------------------------------------------------------ the card of a run

  const card = $("card");
  let from = null;

  function open(i, opener) {
    from = opener || null;
    picked = i;
    const where = `${links.blob}${runs.name[i]}/`, sha = commit(i), beside = changes.get(i), files = texts[runs.files[i]].split(" ").filter(Boolean);
    const shut = make("button", { type: "button", class: "shut", "aria-label": "Close" }, "×");
    shut.addEventListener("click", close);
    const numbers = metrics.filter((metric, place) => metric.value[i] !== null && (metric.bound !== null || place === data.headline));
    card.replaceChildren(shut, make("h2", {}, runs.name[i]), make("p", {}, state(i)),
      make("p", {}, make("a", { href: raw(i) }, "result.json"), " · ", make("a", { href: `${links.tree}${runs.name[i]}` }, "folder"), ...(sha ? [" · commit ", sha] : [])),
      make("p", { class: "soft" }, `${texts[runs.group[i]]} · ${moment(i)} UTC · took ${texts[runs.took[i]]}`),
      texts[runs.failure[i]] ? make("p", { class: "why" }, texts[runs.failure[i]]) : "",
      numbers.length ? make("table", {}, ...numbers.map(metric => make("tr", {}, make("th", { scope: "row" }, metric.text), make("td", {}, metric.shown[i],
        metric.verdict.length ? make("small", {}, ` ${texts[metric.verdict[i]]}`) : "")))) : "",
      beside ? make("p", {}, make("b", {}, `What else changed since ${runs.name[beside.before]}`)) : "",
      beside ? make("ul", {}, ...beside.facts.map(([what, before, now]) => make("li", {}, `${what}: ${before} → ${now}`))) : "",
      files.length ? make("p", {}, ...files.flatMap((name, n) => [n ? " · " : "", make("a", { href: where + name }, name)])) : "");
    card.hidden = false;
    card.setAttribute("aria-label", `Run ${runs.name[i]}`);
    if (location.hash !== `#${runs.name[i]}`) history.replaceState(null, "", `#${runs.name[i]}`);
    card.focus({ preventScroll: true });
    redraw();
  }
  function close() {
    card.hidden = true;
    picked = -1;
    history.replaceState(null, "", location.pathname + location.search);
    redraw();
    if (from && from.isConnected) from.focus({ preventScroll: true });
  }
  card.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
  document.addEventListener("click", event => {
    const link = event.target.closest("a.run");
    if (link && place.has(link.hash.slice(1))) { event.preventDefault(); open(place.get(link.hash.slice(1)), link); }
  });
  const named = () => { const i = place.get(location.hash.slice(1)); if (i !== undefined) open(i); };
  addEventListener("hashchange", named);

  // ------------------------------------------------------------------------------------------------ the table of all runs

  const table = $("all-runs"), body = table.tBodies[0], rowsAPage = Number(table.dataset.page), headline = metrics[data.headline];
  let found = null, first = 0; // found: places that match, newest first; null is all of them

  function row(i) {
    const cell = (label, ...inside) => make("td", { "data-label": label }, ...inside), sha = commit(i), proxy = texts[headline.seen[i]].includes("proxy: ");
    return make("tr", {}, make("th", { scope: "row" }, make("a", { class: "run", href: `#${runs.name[i]}` }, runs.name[i])), cell("started", moment(i)),
      cell("state", state(i)), cell("headline", headline.shown[i] === null ? "" : headline.shown[i] + (proxy ? ", proxy" : "")),
      cell("machine", texts[runs.group[i]]), cell("took", texts[runs.took[i]]),
      cell("links", make("a", { href: raw(i) }, "result.json"), ...(sha ? [" · ", sha] : [])));
  }
  function turn(to) {
    const total = found ? found.length : count, shown = [];
    first = Math.max(0, Math.min(to, Math.floor((total - 1) / rowsAPage) * rowsAPage));
    for (let n = first; n < Math.min(first + rowsAPage, total); n++) shown.push(row(found ? found[n] : count - 1 - n));
    body.replaceChildren(...shown);
    label(total);
  }
  function label(total) {
    const end = Math.min(first + rowsAPage, total);
    $("page").textContent = total ? `${number(first + 1)} to ${number(end)} of ${number(total)} runs` : "no run matches";
    $("newer").disabled = first === 0;
    $("older").disabled = end >= total;
  }
  const words = i => `${runs.name[i]} ${texts[runs.state[i]]} ${kindOf(i)} ${texts[runs.group[i]]} ${texts[runs.commit[i]]} ${moment(i)} ${texts[runs.failure[i]]}`.toLowerCase();
  let haystack = null;
  $("find-run").addEventListener("input", event => {
    const wanted = event.target.value.trim().toLowerCase();
    haystack = haystack || runs.name.map((_, i) => words(i));
    found = wanted ? haystack.flatMap((text, i) => text.includes(wanted) ? [i] : []).reverse() : null;
    turn(0);
  });
  $("newer").addEventListener("click", () => turn(first - rowsAPage));
  $("older").addEventListener("click", () => turn(first + rowsAPage));
  const search = $("find-metric");
  if (search) search.addEventListener("input", () => {
    for (const figure of document.querySelectorAll("#others figure")) {
      figure.hidden = !figure.querySelector("b").textContent.toLowerCase().includes(search.value.trim().toLowerCase());
    }
  });

  label(count);
  tell();
  named();
  document.documentElement.dataset.ready = "yes";
})();
