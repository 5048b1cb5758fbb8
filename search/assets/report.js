"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  // Okabe and Ito's palette, which the colour-blind can tell apart.
  const palette = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999", "#f0e442"];
  const kinds = {
    other: { label: "other trials", symbol: "circle-open", size: 8, color: "#999999" },
    uniform: { label: "every layer pruned alike", symbol: "square-open", size: 10, color: "#e69f00" },
    front: { label: "front", symbol: "diamond", size: 12, color: "#0072b2" },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let report;
  let drawn = new Set();

  async function unpack(id) {
    const bytes = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const paper = style.getPropertyValue("--paper").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const own = { ...layout, paper_bgcolor: paper, plot_bgcolor: paper, colorway: palette, template: {} };
    own.font = { color: ink, family: "system-ui, sans-serif", size: 13 };
    own.xaxis = { ...axis, ...layout.xaxis };
    own.yaxis = { ...axis, ...layout.yaxis };
    own.hoverlabel = { align: "left" };
    delete own.title;  // it stands above the figure
    own.margin = { t: layout.updatemenus ? 60 : 30, ...layout.margin };
    own.updatemenus = (layout.updatemenus || []).map((menu) => ({
      ...menu, bgcolor: paper, bordercolor: line, font: { color: ink },
    }));
    if (innerWidth < 640) {
      own.margin = { l: 50, r: 10, b: 60, ...own.margin };
      own.legend = { orientation: "h", y: -0.3, ...layout.legend };
    }
    return own;
  }

  const settings = { responsive: true, displaylogo: false };

  function draw(place) {
    if (place.id === "front-plot") return drawFront();
    const figure = report.figures[Number(place.dataset.figure)];
    return Plotly.react(place, figure.data, themed(figure.layout), settings);
  }

  function hover(index) {
    const trials = report.trials;
    const lines = report.axes.map(({ name, label }) => `${label}: ${trials[name][index]}`);
    return [`trial ${trials.number[index]}, ${trials.epochs[index]} epochs`, ...lines].join("<br>");
  }

  function drawFront() {
    const trials = report.trials;
    const x = $("axis-x").value, y = $("axis-y").value;
    const three = $("three").checked && report.objectives.length > 2;
    const names = three ? [...report.objectives.slice(1, 3), report.objectives[0]] : [x, y];
    const label = (name) => report.axes.find((axis) => axis.name === name).label;
    const cost = (name) => report.axes.find((axis) => axis.name === name).cost;
    const type = (name) => ($("logarithmic").checked && cost(name) ? "log" : "linear");
    const trace = (chosen, kind) => {
      const [a, b, c] = names.map((name) => chosen.map((index) => trials[name][index]));
      const base = {
        mode: "markers", name: kind.label, customdata: chosen.map((index) => trials.number[index]),
        text: chosen.map(hover), hovertemplate: "%{text}<extra></extra>",
        marker: { symbol: kind.symbol, size: three ? kind.size / 2 : kind.size, color: kind.color },
      };
      return three ? { ...base, type: "scatter3d", x: a, y: b, z: c } : { ...base, type: "scatter", x: a, y: b };
    };
    const traces = Object.entries(kinds).map(([kind, how]) =>
      trace(trials.kind.flatMap((own, index) => (own === kind ? [index] : [])), how));
    const dense = names.map((name) => [report.dense[name]]);
    if (dense.every(([value]) => value !== undefined)) {
      const star = {
        mode: "markers", name: "dense", hovertemplate: "dense<extra></extra>",
        marker: { symbol: three ? "cross" : "star", size: three ? 6 : 15, color: "#d55e00" },
      };
      traces.push(three ? { ...star, type: "scatter3d", x: dense[0], y: dense[1], z: dense[2] }
        : { ...star, type: "scatter", x: dense[0], y: dense[1] });
    }
    const axis = (name) => ({ title: { text: label(name) }, type: type(name) });
    const layout = three
      ? { scene: { xaxis: axis(names[0]), yaxis: axis(names[1]), zaxis: axis(names[2]) }, height: 640 }
      : { xaxis: axis(x), yaxis: axis(y), height: 520 };
    const place = $("front-plot");
    Plotly.react(place, traces, themed(layout), settings);
    place.removeAllListeners("plotly_click");
    place.on("plotly_click", ({ points }) => {
      if (points[0].customdata !== undefined) pin(points[0].customdata);
    });
  }

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function table(parent, head, rows) {
    const made = element("table", undefined, parent);
    const top = element("tr", undefined, element("thead", undefined, made));
    head.forEach((text) => element("th", text, top));
    const body = element("tbody", undefined, made);
    rows.forEach((row) => {
      const line = element("tr", undefined, body);
      row.forEach((cell) => element("td", cell, line));
    });
  }

  function branch(parent, [name, count, area, power, parts]) {
    const text = `${name} (${count}): ${area} mm2, ${power} mW`;
    if (!parts.length) return element("div", text, parent);
    const made = element("details", undefined, parent);
    element("summary", text, made);
    made.addEventListener("toggle", () => {
      if (made.children.length === 1) parts.forEach((part) => branch(made, part));
    });
    return made;
  }

  function pin(number) {
    const found = report.details[number];
    const place = $("pinned");
    place.replaceChildren();
    element("h3", `Trial ${number}: ${found.method}, ${found.epochs} epochs, ${found.status}`, place);
    if (found.ratios) {
      const parts = Object.entries(found.ratios).map(([name, ratio]) => `${name} ${ratio}`);
      element("p", `Times less than dense: ${parts.join(", ")}.`, place);
    }
    table(place, ["layer", "crossbar", "asked for", "certified ADC bits", "by bit slice"],
      found.layers.map(([name, crossbar, asked, bits, slices]) => [
        name, crossbar, Object.entries(asked).map(([key, value]) => `${key} ${value}`).join(", "),
        bits, slices ? slices.join(" ") : "-",
      ]));
    if (found.tree) {
      element("h4", "Cost tree", place);
      branch(place, found.tree).open = true;
    }
    if (found.command) {
      const line = element("p", undefined, place);
      element("code", found.command, line);
      if (navigator.clipboard) {
        const copy = element("button", "copy", line);
        copy.addEventListener("click", () => navigator.clipboard.writeText(found.command));
      }
    }
    document.querySelectorAll("tr[data-trial]").forEach((row) =>
      row.classList.toggle("chosen", Number(row.dataset.trial) === number));
    history.replaceState(null, "", `#trial-${number}`);
  }

  function choose() {
    const costs = report.axes.filter((axis) => axis.cost).map((axis) => axis.name);
    const wanted = {
      "axis-x": report.objectives.find((name) => costs.includes(name)) || costs[0],
      "axis-y": report.objectives.find((name) => !costs.includes(name)) || "accuracy",
    };
    for (const [id, name] of Object.entries(wanted)) {
      report.axes.forEach((axis) => {
        const option = element("option", axis.label, $(id));
        option.value = axis.name;
        option.selected = axis.name === name;
      });
    }
    for (const id of ["axis-x", "axis-y", "logarithmic", "three"]) {
      $(id).addEventListener("change", drawFront);
    }
    $("three").parentElement.hidden = report.objectives.length < 3;
    document.querySelectorAll("tr[data-trial]").forEach((row) => {
      const open = () => pin(Number(row.dataset.trial));
      row.addEventListener("click", open);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
    });
  }

  async function start() {
    const [library, data] = await Promise.all([unpack("plotly"), unpack("data")]);
    report = JSON.parse(data);
    element("script", library, document.head);
    if (report.trials.number.length || Object.keys(report.dense).length) choose();
    const places = [...document.querySelectorAll(".figure")];
    const watch = new IntersectionObserver((entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
        watch.unobserve(target);
        drawn.add(target);
        draw(target);
      });
    }, { rootMargin: "200px" });
    places.forEach((place) => watch.observe(place));
    dark.addEventListener("change", () => drawn.forEach(draw));
    const asked = Number(location.hash.replace("#trial-", ""));
    if (location.hash && report.details[asked]) pin(asked);
    document.documentElement.dataset.ready = "yes";
  }

  start().catch((error) => {
    const note = element("p", `Figures cannot be drawn in this browser (${error}); the tables stand.`);
    $("front-plot").replaceWith(note);
  });
})();
