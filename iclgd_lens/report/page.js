"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  const names = data.names.map(([name, rank]) => ({ name, rank, look: data.looks[name] }));

  // -- data ----------------------------------------------------------------------------------

  const decoded = new Map();
  // "i": int16 in units of 1/10,000, -32768 undefined; "f": float32, NaN undefined.
  function decode(text) {
    if (!decoded.has(text)) {
      const bytes = Uint8Array.from(atob(text.slice(1)), (c) => c.charCodeAt(0));
      const view = new DataView(bytes.buffer);
      const wide = text[0] === "f";
      const values = Array.from({ length: bytes.length / (wide ? 4 : 2) }, (_, i) => {
        if (wide) return view.getFloat32(4 * i, true);
        const raw = view.getInt16(2 * i, true);
        return raw === -32768 ? NaN : raw / 10000;
      });
      decoded.set(text, values);
    }
    return decoded.get(text);
  }
  function unpack(packed) {
    if (!packed) return null;
    const [value, low, high, n] = packed;
    const values = decode(value);
    return {
      value: values,
      low: low ? decode(low) : values.map(() => NaN),
      high: high ? decode(high) : values.map(() => NaN),
      n: Array.isArray(n) ? n : values.map(() => n),
    };
  }
  const key = (...parts) => parts.join(" ");
  const nan = (value) => (value === null ? NaN : value);
  const whole = new Map(data.whole.map(([m, t, h, s, value, low, high, n]) =>
    [key(m, t, h, s), { value: nan(value), low: nan(low), high: nan(high), n }]));
  const series = new Map(data.series.map(([m, t, h, s, layers, heads, byLayer, byHead]) =>
    [key(m, t, h, s), { layers, heads, byLayer, byHead }]));
  const twins = new Map(data.twins.map(([m, h, found]) => [key(m, h), found]));

  function number(value) {
    if (!Number.isFinite(value)) return "undefined";
    const text = Math.abs(value) >= 1000 ? value.toPrecision(5) : value.toFixed(4);
    return text.replace("-", "\u2212");
  }
  function estimate(value, low, high) {
    const between = Number.isFinite(low) && Number.isFinite(high);
    return number(value) + (between ? ` [${number(low)}, ${number(high)}]` : "");
  }
  // Plotly reads text as markup and as a template: names must be neither.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;")
    .replace(/>/g, "&gt;").replace(/%\{/g, "%\u200b{").replace(/\$/g, "&#36;");

  // -- look ----------------------------------------------------------------------------------

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = () => css("color-scheme") === "dark" || getComputedStyle(root).colorScheme === "dark";
  function palette() {
    const theme = data.palettes[dark() ? "dark" : "light"];
    return { ...theme, ink: css("--ink"), quiet: css("--quiet"), line: css("--line"), ground: css("--raised") };
  }
  const colour = (look, pal) => (look.colour < 0 ? pal.quiet : pal.lines[look.colour]);
  const faint = (hex, alpha) => {
    const value = parseInt(hex.slice(1), 16);
    return `rgba(${value >> 16},${(value >> 8) & 255},${value & 255},${alpha})`;
  };
  function layout(pal, more) {
    const axis = { gridcolor: pal.line, zerolinecolor: pal.quiet, linecolor: pal.line, tickcolor: pal.line, automargin: true, fixedrange: true };
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: pal.ground, plot_bgcolor: pal.ground, dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: pal.ink },
      margin: { l: 8, r: 8, t: 8, b: 8 },
      hoverlabel: { bgcolor: pal.ground, bordercolor: pal.quiet, font: { color: pal.ink, size: 13 }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left", font: { size: 12 }, itemclick: false, itemdoubleclick: false },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }
  const config = (filename) => ({
    responsive: true, displaylogo: false, displayModeBar: "hover", showTips: false,
    modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename },
  });
  const draw = (id, traces, shape) => Plotly.react(by(id), traces, layout(palette(), shape), config(id));

  // -- tables of what a figure shows ---------------------------------------------------------

  function cell(kind, text, scope) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  }
  function values(id, title, columns, rows) {
    const fold = by(`${id}-values`);
    fold.fill = () => {
      const table = document.createElement("table");
      const caption = document.createElement("span");
      caption.textContent = title;
      table.createCaption().append(caption);
      table.createTHead().append(document.createElement("tr"));
      table.tHead.rows[0].append(...columns.map((text) => cell("th", text, "col")));
      table.append(document.createElement("tbody"));
      for (const [head, ...rest] of rows()) {
        const line = document.createElement("tr");
        line.append(cell("th", head, "row"), ...rest.map((text) => cell("td", text)));
        table.tBodies[0].append(line);
      }
      fold.querySelector(".scroll").replaceChildren(table);
    };
    if (fold.open) fold.fill();
  }
  for (const fold of document.querySelectorAll("details.values")) {
    fold.addEventListener("toggle", () => fold.open && fold.fill && fold.fill());
  }
  const say = (id, text) => { by(`${id}-caption`).textContent = text; };

  // -- selectors -----------------------------------------------------------------------------

  const chosen = (id) => Number(by(id).value);
  function options(id, entries, wanted) {
    const select = by(id);
    const before = select.options.length ? select.value : null;
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    const has = (value) => entries.some(([each]) => String(each) === String(value));
    select.value = String([before, wanted].find((v) => v !== null && v !== undefined && has(v)) ?? (entries[0] ? entries[0][0] : ""));
    // A choice of one is no choice.
    select.closest("label").hidden = entries.length < 2;
  }
  const entries = (list, keep) => list.map((text, i) => [i, text]).filter(([i]) => keep(i));
  function lines(id, redraw) {
    const box = by(`${id}-lines`);
    names.forEach(({ name, look }, i) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.value = i;
      input.checked = look.shown;
      input.addEventListener("change", redraw);
      label.append(input, name);
      box.append(label);
    });
  }
  function shown(id, has) {
    return [...by(`${id}-lines`).querySelectorAll("input")].filter((input) => {
      const there = has(Number(input.value));
      input.closest("label").hidden = !there;
      return there && input.checked;
    }).map((input) => Number(input.value));
  }
  const any = (map, m, t, h, s) => {
    const wanted = [m, t, h, s];
    for (const each of map.keys()) {
      const parts = each.split(" ");
      if (wanted.every((value, i) => value === null || String(value) === parts[i])) return true;
    }
    return false;
  };

  const marker = (look, pal, size = 9) => ({
    symbol: look.symbol, size, color: colour(look, pal),
    line: { width: look.symbol.endsWith("open") ? 2 : 0, color: colour(look, pal) },
  });
  function bars(values, lows, highs) {
    const gap = (a, b) => (Number.isFinite(a) && Number.isFinite(b) ? Math.max(0, a - b) : 0);
    return {
      type: "data", symmetric: false, thickness: 1.5, width: 0,
      array: values.map((v, i) => gap(highs[i], v)), arrayminus: values.map((v, i) => gap(v, lows[i])),
    };
  }

  const stacked = (drawn) => (root.clientWidth < 760 ? 15 * drawn.length : 0); // the legend's lines
  const categories = (count) => ({ type: "category", categoryorder: "array", range: [count - 0.5, -0.5] });

  // -- means by task -------------------------------------------------------------------------

  function means() {
    const model = chosen("means-model");
    options("means-score", entries(data.scores, (s) => any(whole, model, null, null, s)));
    const score = chosen("means-score");
    const pal = palette();
    const at = (t, h) => whole.get(key(model, t, h, score));
    const tasks = data.tasks.map((_, t) => t).filter((t) => names.some((_, h) => at(t, h)));
    const drawn = shown("means", (h) => tasks.some((t) => at(t, h)));
    const traces = drawn.map((h) => {
      const { name, look } = names[h];
      const here = tasks.filter((t) => at(t, h));
      const found = here.map((t) => at(t, h));
      const line = colour(look, pal);
      return {
        type: "scatter", mode: "markers", orientation: "h", name: plain(name), offsetgroup: String(h),
        x: found.map((c) => c.value), y: here.map((t) => plain(data.tasks[t])),
        marker: marker(look, pal),
        error_x: { ...bars(found.map((c) => c.value), found.map((c) => c.low), found.map((c) => c.high)), color: line },
        text: found.map((c, i) => `${plain(data.tasks[here[i]])}, ${plain(name)}<br>${plain(data.scores[score])} ${estimate(c.value, c.low, c.high)}<br>n = ${c.n}`),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    draw("means", traces, {
      scattermode: "group", scattergap: 0.25, height: 110 + stacked(drawn) + tasks.length * Math.max(46, 15 * drawn.length),
      xaxis: { title: { text: plain(data.scores[score]) }, zeroline: true, rangemode: "tozero" },
      yaxis: { ...categories(tasks.length), categoryarray: tasks.map((t) => plain(data.tasks[t])), showgrid: false, showdividers: true, tickson: "boundaries" },
    });
    say("means", `${data.scores[score]} by task, ${data.models[model]}: mean over seeds and queries with its interval.`);
    values("means", `${data.scores[score]}, ${data.models[model]}`, ["task", ...drawn.map((h) => names[h].name)], () => tasks.map((t) =>
      [data.tasks[t], ...drawn.map((h) => { const c = at(t, h); return c ? estimate(c.value, c.low, c.high) : ""; })]));
  }

  // -- by layer ------------------------------------------------------------------------------

  function runs(low, high) { // neighbouring layers whose interval exists
    const found = [];
    low.forEach((_, i) => {
      if (!Number.isFinite(low[i]) || !Number.isFinite(high[i])) return;
      const last = found[found.length - 1];
      if (last && last[last.length - 1] === i - 1) last.push(i);
      else found.push([i]);
    });
    return found;
  }
  function profile() {
    const [model, task, score] = ["place-model", "place-task", "place-score"].map(chosen);
    const pal = palette();
    const at = (h) => series.get(key(model, task, h, score));
    const drawn = shown("profile", (h) => Boolean(at(h)));
    const traces = [];
    for (const h of drawn) {
      const { name, look, rank } = names[h];
      const found = unpack(at(h).byLayer);
      const line = colour(look, pal);
      for (const part of runs(found.low, found.high)) {
        traces.push({
          type: "scatter", mode: "lines", x: [...part, ...[...part].reverse()],
          y: [...part.map((i) => found.high[i]), ...[...part].reverse().map((i) => found.low[i])],
          fill: "toself", fillcolor: faint(line.startsWith("#") ? line : "#808080", rank ? 0.1 : 0.2),
          line: { width: 0 }, hoverinfo: "skip", showlegend: false,
        });
      }
      traces.push({
        type: "scatter", mode: "lines+markers", name: plain(name), x: found.value.map((_, i) => i), y: found.value,
        line: { color: line, dash: look.dash, width: rank ? 1.5 : 2.5 }, marker: marker(look, pal, rank ? 6 : 7),
        text: found.value.map((v, i) => `${estimate(v, found.low[i], found.high[i])}, n = ${found.n[i]}`),
        hovertemplate: "%{text}",
      });
    }
    const layers = Math.max(1, ...drawn.map((h) => at(h).layers));
    draw("profile", traces, {
      height: 430 + stacked(drawn), hovermode: "x unified",
      xaxis: { title: { text: "layer" }, tickformat: "d", dtick: layers <= 16 ? 1 : Math.ceil(layers / 12), zeroline: false, range: [-0.4, layers - 0.6], unifiedhovertitle: { text: "layer %{x}" } },
      yaxis: { title: { text: plain(data.scores[score]) }, zeroline: true },
    });
    say("profile", `${data.scores[score]} by layer on ${data.tasks[task]}, ${data.models[model]}. Bands are intervals over seeds and queries.`);
    values("profile", `${data.scores[score]} on ${data.tasks[task]}, ${data.models[model]}`, ["layer", ...drawn.map((h) => names[h].name)], () => {
      const found = drawn.map((h) => unpack(at(h).byLayer));
      return Array.from({ length: layers }, (_, l) => [l, ...found.map((f) => (l < f.value.length ? estimate(f.value[l], f.low[l], f.high[l]) : ""))]);
    });
  }

  // -- layer x head --------------------------------------------------------------------------

  function besides(model, task, h, score) { // what may stand beside a hypothesis's heads
    const found = [];
    data.models.forEach((label, m) => names.forEach(({ name }, i) => {
      const each = series.get(key(m, task, i, score));
      if (each && each.byHead && !(m === model && i === h)) found.push([`${m} ${i}`, m === model ? name : `${name} (${label})`]);
    }));
    return found;
  }
  function heads() {
    const [model, task, score] = ["place-model", "place-task", "place-score"].map(chosen);
    options("heads-name", entries(names.map(({ name }) => name), (h) => {
      const each = series.get(key(model, task, h, score));
      return Boolean(each && each.byHead);
    }));
    const have = by("heads-name").options.length > 0;
    by("heads-controls").hidden = !have;
    by("heads-pair").hidden = !have;
    by("heads-values").hidden = !have;
    if (!have) {
      say("heads", `${data.scores[score]} is measured by layer, not by head.`);
      return;
    }
    const h = chosen("heads-name");
    const possible = besides(model, task, h, score);
    const has = (value) => possible.some(([each]) => each === value);
    const twin = (twins.get(key(model, h)) || []).map(([m, i]) => `${m} ${i}`).find(has);
    const select = by("heads-beside");
    if (select.dataset.of !== `${model} ${h}` && select.dataset.touched !== "yes") select.replaceChildren();
    select.dataset.of = `${model} ${h}`;
    options("heads-beside", [["none", "nothing"], ...possible], twin);
    const beside = select.value === "none" ? null : select.value.split(" ").map(Number);
    const panels = [[model, h], ...(beside ? [beside] : [])];
    const found = panels.map(([m, i]) => ({ each: series.get(key(m, task, i, score)), label: names[i].name + (m === model ? "" : ` (${data.models[m]})`) }));
    for (const panel of found) panel.read = unpack(panel.each.byHead);
    const largest = Math.max(0.01, ...found.flatMap(({ read }) => read.value.filter(Number.isFinite).map(Math.abs)));
    const reach = by("heads-scale").value === "one" ? 1 : largest;
    by("heads-pair").classList.toggle("single", !beside);
    by("heads-second").hidden = !beside;
    found.forEach(({ each, read, label }, i) => heat(`heads-${i}`, each, read, label, reach, score));
    say("heads", found.map(({ each, read, label }) => summary(each, read, label)).join(" "));
    values("heads", `${data.scores[score]} of ${found[0].label} on ${data.tasks[task]}`, ["layer", ...Array.from({ length: found[0].each.heads }, (_, i) => `head ${i}`)], () => {
      const { each, read } = found[0];
      return Array.from({ length: each.layers }, (_, l) => [l, ...read.value.slice(l * each.heads, (l + 1) * each.heads).map(number)]);
    });
  }
  const rows = (flat, each) => Array.from({ length: each.layers }, (_, l) => flat.slice(l * each.heads, (l + 1) * each.heads));
  function heat(id, each, read, label, reach, score) {
    const pal = palette();
    by(`${id}-title`).textContent = label;
    const text = read.value.map((v, i) =>
      `layer ${Math.floor(i / each.heads)}, head ${i % each.heads}<br>${plain(data.scores[score])} ${estimate(v, read.low[i], read.high[i])}<br>n = ${read.n[i]}`);
    const undefined_ = read.value.some((v) => !Number.isFinite(v));
    draw(id, [{
      type: "heatmap", z: rows(read.value.map((v) => (Number.isFinite(v) ? v : null)), each), text: rows(text, each),
      zmin: -reach, zmax: reach, colorscale: pal.diverging, xgap: each.heads > 20 ? 0.5 : 1, ygap: each.layers > 20 ? 0.5 : 1,
      hovertemplate: "%{text}<extra></extra>",
      colorbar: { orientation: "h", thickness: 12, len: 1, lenmode: "fraction", x: 0.5, xanchor: "center", y: 1.01, yanchor: "bottom", ypad: 4, xpad: 0, outlinewidth: 0, nticks: 5, ticklabelposition: "outside top" },
    }], {
      height: Math.min(640, 120 + each.layers * Math.max(13, Math.min(26, 300 / each.layers))),
      plot_bgcolor: undefined_ ? pal.undefined : pal.ground,
      xaxis: { title: { text: "head", standoff: 4 }, showgrid: false, zeroline: false, tickformat: "d", dtick: each.heads <= 12 ? 1 : Math.ceil(each.heads / 8) },
      yaxis: { title: { text: "layer", standoff: 4 }, showgrid: false, zeroline: false, tickformat: "d", dtick: each.layers <= 12 ? 1 : Math.ceil(each.layers / 8) },
    });
  }
  function summary(each, read, label) {
    const order = read.value.map((_, i) => i).filter((i) => Number.isFinite(read.value[i])).sort((a, b) => read.value[b] - read.value[a]);
    if (!order.length) return `${label}: undefined everywhere.`;
    const place = (i) => `layer ${Math.floor(i / each.heads)}, head ${i % each.heads} (${number(read.value[i])})`;
    const lost = read.value.length - order.length;
    return `${label}: highest at ${place(order[0])}, lowest at ${place(order[order.length - 1])}${lost ? `; undefined in ${lost} heads` : ""}.`;
  }
  function place() {
    const model = chosen("place-model");
    options("place-task", entries(data.tasks, (t) => any(series, model, t, null, null)));
    options("place-score", entries(data.scores, (s) => any(series, model, chosen("place-task"), null, s)));
    profile();
    heads();
  }

  // -- trained beside untrained --------------------------------------------------------------

  function training() {
    const model = chosen("training-model");
    options("training-score", entries(data.scores, (s) => data.twins.some(([m, h]) => m === model && any(whole, m, null, h, s))));
    const score = chosen("training-score");
    const pal = palette();
    const groups = data.twins.filter(([m, h]) => m === model && any(whole, m, null, h, score));
    const traces = [];
    const table = [];
    const labels = [];
    data.tasks.forEach((task, t) => groups.forEach(([m, h]) => {
      if (whole.has(key(m, t, h, score))) labels.push(`${plain(task)} \u00b7 ${plain(names[h].name)}`);
    }));
    const add = (m, h, group, copy, label, look) => {
      const here = data.tasks.map((_, t) => t).filter((t) => whole.has(key(m, t, h, score)));
      const found = here.map((t) => whole.get(key(m, t, h, score)));
      found.forEach((c, i) => table.push([data.tasks[here[i]], label, estimate(c.value, c.low, c.high), String(c.n)]));
      traces.push({
        type: "scatter", mode: "markers", orientation: "h", offsetgroup: String(copy),
        name: plain(label), x: found.map((c) => c.value),
        y: here.map((t) => `${plain(data.tasks[t])} \u00b7 ${plain(names[group].name)}`), marker: marker(look, pal, 10),
        error_x: { ...bars(found.map((c) => c.value), found.map((c) => c.low), found.map((c) => c.high)), color: colour(look, pal) },
        text: found.map((c, i) => `${plain(data.tasks[here[i]])}, ${plain(label)}<br>${plain(data.scores[score])} ${estimate(c.value, c.low, c.high)}<br>n = ${c.n}`),
        hovertemplate: "%{text}<extra></extra>",
      });
    };
    for (const [m, h, copies] of groups) {
      add(m, h, h, 0, names[h].name, names[h].look);
      copies.forEach(([other, i], copy) => {
        const look = other === m ? names[i].look : { ...names[h].look, symbol: "diamond-open" };
        add(other, i, h, copy + 1, other === m ? names[i].name : `${names[i].name} (${data.models[other]})`, look);
      });
    }
    draw("training", traces, {
      scattermode: "group", scattergap: 0.3,
      height: 120 + stacked(traces) + labels.length * Math.max(30, 15 * Math.max(...groups.map(([, , copies]) => copies.length + 1))),
      xaxis: { title: { text: plain(data.scores[score]) }, zeroline: true, rangemode: "tozero" },
      yaxis: { ...categories(labels.length), categoryarray: labels },
    });
    say("training", `${data.scores[score]}, ${data.models[model]}: filled marks are the trained model, open marks untrained copies of it.`);
    values("training", `${data.scores[score]}, ${data.models[model]}`, ["task", "hypothesis", data.scores[score], "n"], () => table);
  }

  // -- paired differences --------------------------------------------------------------------

  function paired() {
    const [model, kind, score] = ["paired-model", "paired-kind", "paired-score"].map((id) => by(id).value);
    const pal = palette();
    const wanted = data.differences.filter((d) =>
      data.models[d[0]] === model && data.scores[d[2]] === score && (kind === "all" || d[3] === kind));
    const pairs = [...new Set(wanted.map((d) => `${d[4]}\n${d[5]}`))];
    wanted.sort((c, d) => pairs.indexOf(`${c[4]}\n${c[5]}`) - pairs.indexOf(`${d[4]}\n${d[5]}`));
    const label = (d) => `${plain(d[4])} \u2212 ${plain(d[5])} \u00b7 ${plain(data.tasks[d[1]])}`;
    const traces = [["shown to differ", true, "circle"], ["not shown to differ", false, "circle-open"]].map(([name, sign, symbol]) => {
      const here = wanted.filter((d) => (d[10] !== 0) === sign && d[6] !== null);
      const ink = sign ? pal.lines[0] : pal.quiet;
      return {
        type: "scatter", mode: "markers", name, x: here.map((d) => d[6]), y: here.map(label),
        marker: { symbol, size: 9, color: ink, line: { width: sign ? 0 : 2, color: ink } },
        error_x: { ...bars(here.map((d) => d[6]), here.map((d) => nan(d[7])), here.map((d) => nan(d[8]))), color: ink },
        text: here.map((d) => `${label(d)}<br>${estimate(d[6], nan(d[7]), nan(d[8]))}<br>corrected p ${d[9] === null ? "undefined" : d[9] < 0.001 ? "&lt; 0.001" : `= ${d[9].toFixed(3)}`}`),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    draw("paired", traces, {
      height: 110 + 21 * Math.max(1, wanted.length),
      xaxis: { title: { text: "difference" }, zeroline: true, zerolinewidth: 2 },
      yaxis: { ...categories(wanted.length), categoryarray: wanted.map(label), tickfont: { size: 11 } },
    });
    say("paired", `${wanted.length} differences in ${score}; filled marks are shown to differ (corrected p below 0.05 and an interval without 0).`);
    for (const line of document.querySelectorAll("#paired-table tbody tr")) {
      const own = line.dataset;
      line.hidden = !(own.model === model && own.score === score && (kind === "all" || own.kind === kind));
    }
  }

  // -- start ---------------------------------------------------------------------------------

  const figures = { means, place, training, paired };
  const present = Object.keys(figures).filter((id) => by(`${id}-section`));
  const redraw = () => present.forEach((id) => figures[id]());
  for (const id of present) {
    for (const select of by(`${id}-section`).querySelectorAll("select")) {
      select.addEventListener("change", () => {
        if (select.id === "heads-beside") select.dataset.touched = "yes";
        if (select.id.startsWith("heads-")) heads(); else figures[id]();
      });
    }
  }
  if (present.includes("means")) lines("means", means);
  if (present.includes("place")) lines("profile", profile);

  const button = by("theme");
  const themes = ["system", "dark", "light"];
  let theme = root.dataset.theme || "system";
  function show() {
    button.textContent = `Theme: ${theme}`;
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("iclgd-theme", theme); } catch { /* not kept, then */ }
    show();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  show();
  for (const id of ["means-model", "training-model", "place-model", "paired-model", "paired-score"]) {
    const select = by(id);
    if (select) select.closest("label").hidden = select.options.length < 2;
  }
  redraw();
  root.dataset.ready = "yes";
})();
