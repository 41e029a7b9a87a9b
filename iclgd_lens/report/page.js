"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = () => getComputedStyle(root).colorScheme === "dark";
  const narrow = (plot) => plot.clientWidth < 620;

  // A figure is drawn as Python described it, in the theme's colours and the page's width.
  function coloured(spec) {
    const text = JSON.stringify(spec);
    if (!dark()) return JSON.parse(text);
    return JSON.parse(text.replace(/#[0-9a-f]{6}/g, (hex) => data.dark[hex] || hex));
  }
  function fitted(spec, plot) {
    const { layout } = spec;
    delete layout.width;
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.dragmode = false;
    Object.assign(layout.margin, { l: 8, r: 8 });
    layout.legend.itemclick = layout.legend.itemdoubleclick = false;
    layout.hoverlabel = { bgcolor: css("--raised"), bordercolor: css("--quiet"), font: { color: css("--ink") }, align: "left" };
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key].fixedrange = true;
    const panels = (layout.meta || {}).panels || 1;
    if (narrow(plot)) {
      const names = spec.data.filter((trace) => trace.name && trace.showlegend !== false);
      if (layout.showlegend !== false && names.length > 1) layout.height += 18 * names.length;
      if (panels > 1) stack(layout, panels);
      for (const trace of spec.data) if (trace.colorbar) trace.colorbar = { ...trace.colorbar, orientation: "h", yref: "container", y: 0.02, yanchor: "bottom", title: { ...trace.colorbar.title, side: "bottom" } };
    }
    return spec;
  }
  function stack(layout, panels) { // panels side by side become panels one above the other
    const room = layout.height - 150, height = room * panels + 54 * (panels - 1) + 190;
    const gap = 54 / (height - 190), tall = (1 - gap * (panels - 1)) / panels;
    for (let i = 0; i < panels; i += 1) {
      const end = i ? String(i + 1) : "", top = 1 - i * (tall + gap);
      Object.assign(layout[`xaxis${end}`], { domain: [0, 1], title: { text: i === panels - 1 ? "head" : "" } });
      Object.assign(layout[`yaxis${end}`], { domain: [top - tall, top], title: { text: "layer" } });
    }
    layout.height = height;
    layout.margin.b = 110;
  }
  const config = (filename) => ({
    displaylogo: false, displayModeBar: "hover", showTips: false,
    modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename },
  });

  function start(figure) {
    const name = figure.dataset.figure, own = data.figures[name];
    const selects = [...figure.querySelectorAll("select")];
    const plot = figure.querySelector(".plot"), box = figure.querySelector("fieldset.lines");
    const fold = figure.querySelector("details.values");
    const wanted = new Map(); // lines that the reader switched on or off
    let place = 0;

    function choose(changed) { // the choice nearest to what is selected; the last change is kept
      const now = selects.map((select) => select.value);
      let best = -1;
      own.choices.forEach((labels, i) => {
        if (changed !== undefined && labels[changed] !== now[changed]) return;
        const same = labels.filter((label, at) => label === now[at]).length;
        if (same > best) [best, place] = [same, i];
      });
      selects.forEach((select, at) => { select.value = own.choices[place][at]; });
      draw();
    }
    function draw() {
      const spec = fitted(coloured(own.specs[place]), plot);
      lines(spec);
      // Margins of the other shape would be taken over, and leave no room.
      if (plot.dataset.narrow !== String(narrow(plot))) Plotly.purge(plot);
      plot.dataset.narrow = narrow(plot);
      Plotly.react(plot, spec.data, spec.layout, config(name));
      figure.querySelector("figcaption").textContent = own.captions[place];
      if (fold.open) table();
      for (const line of document.querySelectorAll(`#${name}-section tbody tr[data-score]`)) {
        const labels = own.choices[place];
        line.hidden = line.dataset.model !== labels[0] || line.dataset.score !== labels[1];
      }
    }
    function lines(spec) { // a box to tick for each line, for the keyboard and for small screens
      const named = spec.data.filter((trace) => trace.name && trace.showlegend !== false && trace.type !== "bar");
      box.hidden = named.length < 2 || spec.layout.showlegend === false;
      box.querySelectorAll("label").forEach((label) => label.remove());
      for (const trace of named) {
        if (!wanted.has(trace.name)) wanted.set(trace.name, trace.visible !== "legendonly");
        const label = document.createElement("label"), input = document.createElement("input");
        input.type = "checkbox";
        input.checked = wanted.get(trace.name);
        input.addEventListener("change", () => {
          wanted.set(trace.name, input.checked);
          const at = [...box.querySelectorAll("input")].indexOf(input);
          draw();
          box.querySelectorAll("input")[at].focus();
        });
        const shown = new DOMParser().parseFromString(trace.name, "text/html").body.textContent;
        label.append(input, shown);
        box.append(label);
      }
      for (const trace of spec.data) {
        const line = trace.legendgroup && named.find((each) => each.legendgroup === trace.legendgroup);
        const key = (line || trace).name;
        if (wanted.has(key)) trace.visible = wanted.get(key);
      }
    }

    // -- the numbers as a table -------------------------------------------------------------
    const number = (value) => (typeof value === "number" ? String(Math.round(value * 1e4) / 1e4).replace("-", "\u2212") : value ?? "");
    const words = (text) => new DOMParser().parseFromString(String(text ?? "").replace(/<br>/g, ", "), "text/html").body.textContent;
    function rows(spec) {
      const maps = spec.data.filter((trace) => trace.type === "heatmap" && trace.hovertemplate && !trace.hovertemplate.includes("undefined"));
      if (maps.length) {
        const titles = (spec.layout.annotations || []).map((each) => words(each.text));
        const head = ["", ...(maps[0].x || [])];
        return [head, ...maps.flatMap((map, i) => map.z.map((line, y) => [`${titles[i] ? `${titles[i]}, ` : ""}${map.y[y]}`, ...line.map((v) => (v === null ? "undefined" : v))]))];
      }
      const shown = spec.data.filter((trace) => trace.name && trace.hoverinfo !== "skip" && trace.visible !== false && trace.visible !== "legendonly");
      const axis = (key) => words(((spec.layout[key] || {}).title || {}).text) || "row";
      return [["line", axis("xaxis"), axis("yaxis"), "from", "to"], ...shown.flatMap((trace) => trace.x.map((x, i) => {
        const across = typeof trace.y[i] === "string", bars = across ? trace.error_x : trace.error_y;
        const middle = across ? x : trace.y[i], band = trace.customdata && trace.customdata[i];
        const ends = band || (bars && bars.array ? [middle - bars.arrayminus[i], middle + bars.array[i]] : ["", ""]);
        return [words(trace.name), typeof x === "string" ? words(x) : x, across ? words(trace.y[i]) : trace.y[i], ...ends];
      }))];
    }
    function table() {
      const spec = JSON.parse(JSON.stringify(own.specs[place]));
      lines(spec);
      const [head, ...body] = rows(spec);
      const made = document.createElement("table"), caption = document.createElement("span");
      caption.textContent = own.captions[place];
      made.createCaption().append(caption);
      const cell = (kind, text, scope) => { const each = document.createElement(kind); each.textContent = number(text); if (scope) each.scope = scope; return each; };
      const top = document.createElement("tr");
      top.append(...head.map((text) => cell("th", text, "col")));
      made.createTHead().append(top);
      made.append(document.createElement("tbody"));
      for (const [first, ...rest] of body) {
        const line = document.createElement("tr");
        line.append(cell("th", first, "row"), ...rest.map((text) => cell("td", text)));
        made.tBodies[0].append(line);
      }
      fold.querySelector(".scroll").replaceChildren(made);
    }

    selects.forEach((select, at) => select.addEventListener("change", () => choose(at)));
    fold.addEventListener("toggle", () => fold.open && table());
    choose();
    return draw;
  }

  const redraws = [...document.querySelectorAll("figure[data-figure]")].map(start);
  const redraw = () => redraws.forEach((each) => each());
  const button = document.getElementById("theme");
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
  let width = root.clientWidth, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (root.clientWidth !== width) { width = root.clientWidth; redraw(); }
    }, 150);
  });
  show();
  root.dataset.ready = "yes";
})();
