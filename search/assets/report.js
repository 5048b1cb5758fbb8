"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const PRINTED = 680;  // Pixels between the margins of a sheet of A4.
  const NARROW = 640;
  const LONG = 24;  // Letters that a cell of a table does not break.
  const settings = { responsive: true, displaylogo: false };
  const camera = { eye: { x: 1.5, y: 1.5, z: 1 }, center: { x: 0, y: 0, z: -0.2 } };  // All labels in sight.
  const drawn = new Set();
  let report, kinds, pinned;

  async function unpack(id) {
    const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
    for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const rounded = (value) => (value === undefined ? "-" : Number(value.toPrecision(4)));
  const printing = () => "printing" in root.dataset;

  function themed(layout, wide = false) {
    const style = getComputedStyle(root);
    const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
    // So few labels that Plotly chooses 1, 2, 5 or powers of ten on a logarithmic axis.
    const axis = (own = {}, nticks) => ({
      gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, exponentformat: "none",
      ...(own.type === "log" ? { nticks, minorloglabels: "complete" } : {}), ...own,
    });
    const own = {
      ...layout, paper_bgcolor: paper, plot_bgcolor: paper, colorway: report.series, template: {},
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
      xaxis: axis(layout.xaxis, 3), yaxis: axis(layout.yaxis, 4),
      hoverlabel: { align: "left" }, margin: { t: 30, ...layout.margin },
    };
    if (layout.scene) {
      const axes = ["xaxis", "yaxis", "zaxis"].map((name) => [name, axis(layout.scene[name], 3)]);
      own.scene = { ...layout.scene, ...Object.fromEntries(axes) };
    }
    if (printing() || innerWidth < NARROW) {
      own.margin = { l: 50, r: 10, b: 60, ...own.margin };
      const orientation = wide && !printing() ? "v" : "h";
      own.legend = { orientation, yref: "container", y: 0, yanchor: "bottom", x: 0, ...layout.legend };
    }
    if (printing()) own.width = Math.max(PRINTED, layout.width || 0);
    return own;
  }

  function draw(place) {
    drawn.add(place);
    if (place.id === "front-plot") return drawFront();
    const panel = report.panels[Number(place.dataset.panel)];
    const chosen = place.closest(".panel").querySelector(".view");
    const view = chosen ? panel.views[Number(chosen.value)] : { layout: {} };
    const { xaxis, yaxis, ...rest } = view.layout;
    const layout = {
      ...panel.layout, ...rest, uirevision: "kept",
      xaxis: { ...panel.layout.xaxis, ...xaxis }, yaxis: { ...panel.layout.yaxis, ...yaxis },
    };
    const wide = parseFloat(place.style.minWidth) || 0;
    if (printing() && wide > PRINTED) layout.width = wide;
    place.style.zoom = printing() && wide > PRINTED ? PRINTED / wide : "";
    const style = getComputedStyle(root);
    const ramp = [[0, style.getPropertyValue("--low")], [1, style.getPropertyValue("--high")]];
    const data = panel.data.map((trace, index) => ({
      ...trace, visible: view.visible ? view.visible[index] : true,
      ...(trace.type === "parcoords" ? { line: { ...trace.line, colorscale: ramp } } : {}),
    }));
    return Plotly.react(place, data, themed(layout, wide > innerWidth), settings);
  }

  function hover(index) {
    const trials = report.trials, found = report.details[trials.number[index]];
    const lines = report.axes.map(({ name, label }) => {
      const ratio = found.ratios && found.ratios[name];
      return `${label}: ${rounded(trials[name][index])}${ratio ? ` (${ratio}x less than dense)` : ""}`;
    });
    return [
      `<b>trial ${trials.number[index]}</b>: ${found.summary}`,
      `crossbars ${found.crossbars}, ADC bits ${found.bits}`, ...lines,
    ].join("<br>");
  }

  const axisOf = (name) => report.axes.find((axis) => axis.name === name);

  // Members that no other beats in both axes, and the stairs that bound what they dominate.
  function stairs(x, y) {
    const trials = report.trials;
    const sign = (name) => (axisOf(name).cost ? 1 : -1);
    const members = trials.kind.flatMap((kind, index) => (kind === "front" ? [index] : []));
    const loss = (name, index) => sign(name) * trials[name][index];
    members.sort((a, b) => loss(x, a) - loss(x, b) || loss(y, a) - loss(y, b));
    let best = Infinity;
    const joined = members.filter((index) => {
      const better = loss(y, index) < best;
      if (better) best = loss(y, index);
      return better;
    });
    return {
      type: "scatter", mode: "lines", x: joined.map((index) => trials[x][index]),
      y: joined.map((index) => trials[y][index]), hoverinfo: "skip", showlegend: false,
      line: { shape: "hv", width: 1.5, color: kinds.front.color },
    };
  }

  function drawFront() {
    const trials = report.trials;
    const x = $("axis-x").value, y = $("axis-y").value;
    const three = $("three").checked && report.objectives.length > 2;
    const names = three ? [...report.objectives.slice(1, 3), report.objectives[0]] : [x, y];
    const type = (name) => ($("logarithmic").checked && axisOf(name).cost ? "log" : "linear");
    const placed = ([a, b, c], rest) => (three
      ? { ...rest, type: "scatter3d", x: a, y: b, z: c } : { ...rest, type: "scatter", x: a, y: b });
    const trace = (chosen, { label, size, ...look }) => placed(
      names.map((name) => chosen.map((index) => trials[name][index])), {
        mode: "markers", name: label, customdata: chosen.map((index) => trials.number[index]),
        text: chosen.map(hover), hovertemplate: "%{text}<extra></extra>",
        marker: { ...look, size: three ? size / 2 : size },
      });
    const of = (wanted) => trials.kind.flatMap((kind, index) => (kind === wanted ? [index] : []));
    const traces = Object.entries(kinds).map(([kind, look]) => [of(kind), look])
      .filter(([chosen]) => chosen.length).map(([chosen, look]) => trace(chosen, look));
    if (!three && x !== y) traces.unshift(stairs(x, y));
    const dense = names.map((name) => [report.dense[name]]);
    if (dense.every(([value]) => value !== undefined)) {
      const symbol = three ? "cross" : "star";
      traces.push(placed(dense, {
        mode: "markers", name: "dense", hovertemplate: "dense<extra></extra>",
        marker: { symbol, size: three ? 6 : 15, color: report.colours.vermilion },
      }));
    }
    const ring = trials.number.indexOf(pinned);
    if (ring >= 0) {
      const look = { label: `trial ${pinned}`, symbol: "circle-open", size: 22, color: report.colours.vermilion, line: { width: 3 } };
      traces.push({ ...trace([ring], look), hoverinfo: "skip", hovertemplate: null });
    }
    const axis = (name) => ({ title: { text: axisOf(name).label }, type: type(name) });
    const layout = three
      ? { scene: { xaxis: axis(names[0]), yaxis: axis(names[1]), zaxis: axis(names[2]), camera }, height: 640 }
      : { xaxis: axis(x), yaxis: axis(y), height: 520 };
    layout.uirevision = [three, ...names].join();
    const place = $("front-plot");
    Plotly.react(place, traces, themed(layout), settings);
    place.removeAllListeners("plotly_click");
    place.on("plotly_click", ({ points }) => {
      const point = points.find(({ customdata }) => customdata !== undefined);
      // A scene clicks again when it is drawn anew under a pressed mouse.
      if (point && point.customdata !== pinned) pin(point.customdata);
    });
  }

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function table(parent, head, rows) {
    const around = element("div", undefined, parent);
    around.className = "scroll";
    const made = element("table", undefined, around);
    const top = element("tr", undefined, element("thead", undefined, made));
    head.forEach((text) => element("th", text, top));
    const body = element("tbody", undefined, made);
    rows.forEach((row) => {
      const line = element("tr", undefined, body);
      row.forEach((cell) => {
        element("td", cell, line).classList.toggle("long", String(cell).length > LONG);
      });
    });
  }

  function branch(parent, [name, count, area, power, parts], whole) {
    const share = (value, of) => (of > 0 ? ` (${Math.round((100 * value) / of)} %)` : "");
    const many = count && (parts.length ? `, ${count}` : ` x ${count}`);
    const text = `${name}${many}: ${area} mm2${share(area, whole[0])}, ${power} mW${share(power, whole[1])}`;
    const made = element(parts.length ? "details" : "div", parts.length ? undefined : text, parent);
    if (!parts.length) {
      made.className = "leaf";
      return made;
    }
    element("summary", text, made);
    made.addEventListener("toggle", () => {
      if (made.children.length === 1) parts.forEach((part) => branch(made, part, whole));
    });
    return made;
  }

  function pin(number) {
    const found = report.details[number], trials = report.trials;
    const place = $("pinned"), index = trials.number.indexOf(number);
    place.replaceChildren();
    pinned = number;
    if ($("front-plot").data) drawFront();
    element("h3", `Trial ${number}: ${found.summary}`, place);
    const tables = element("div", undefined, place);
    tables.className = "tables";
    table(tables, ["", "this", "dense", "times less"], report.axes.map(({ name, label }) => [
      label, rounded(trials[name][index]), rounded(report.dense[name]), (found.ratios && found.ratios[name]) ?? "",
    ]));
    table(tables, ["layer", "crossbar", "asked for", "certified ADC bits", "by bit slice, least first"],
      found.layers.map(([name, crossbar, asked, bits, slices]) => [
        name, crossbar, Object.entries(asked).map(([key, value]) => `${key} ${value}`).join(", "),
        bits, slices ? slices.join(" ") : "-",
      ]));
    if (found.tree) {
      element("h4", "Cost tree: parts, how many (a share where several layers use one), area and power", place);
      branch(place, found.tree, found.tree.slice(2, 4)).open = true;
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

  // Buttons in the heads of the front's table; the first press puts the best first.
  function makeSortable(members) {
    const heads = [...members.querySelectorAll("th")], body = members.tBodies[0];
    heads.forEach((head, column) => {
      if (!head.dataset.first) return;
      const label = head.querySelector("span"), button = document.createElement("button");
      label.replaceWith(button);
      button.textContent = label.textContent;
      button.addEventListener("click", () => {
        const other = { ascending: "descending", descending: "ascending" };
        const order = head.ariaSort ? other[head.ariaSort] : head.dataset.first;
        heads.forEach((each) => { each.ariaSort = null; });
        head.ariaSort = order;
        const value = (row) => Number(row.cells[column].dataset.value);
        const sign = order === "ascending" ? 1 : -1;
        body.append(...[...body.rows].sort((a, b) => sign * (value(a) - value(b))));
      });
    });
    heads.find((head) => head.dataset.first === "descending").ariaSort = "descending";
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
    $("look").addEventListener("change", ({ target }) => {
      const known = target.value in report.details;
      target.setCustomValidity(known ? "" : `Trial ${target.value} has no measurement.`);
      target.reportValidity();
      if (known) pin(Number(target.value));
    });
    document.querySelectorAll("tr[data-trial]").forEach((row) => {
      const open = () => pin(Number(row.dataset.trial));
      row.addEventListener("click", open);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
    });
  }

  function watchPrinting() {
    const places = [...document.querySelectorAll(".figure")];
    addEventListener("beforeprint", () => {
      root.dataset.printing = "";
      places.forEach(draw);
    });
    addEventListener("afterprint", () => {
      delete root.dataset.printing;
      places.forEach(draw);
    });
  }

  async function start() {
    makeSortable($("members"));
    const [library, data] = await Promise.all([unpack("plotly"), unpack("data")]);
    report = JSON.parse(data);
    kinds = {
      other: { label: "other candidates", symbol: "circle-open", size: 8, color: report.colours.grey },
      uniform: { label: "every layer pruned alike", symbol: "square-open", size: 10, color: report.colours.orange },
      front: { label: "front", symbol: "diamond", size: 12, color: report.colours.blue },
    };
    element("script", library, document.head);
    if (report.trials.number.length || Object.keys(report.dense).length) choose();
    else $("front-plot").remove();
    const watch = new IntersectionObserver((entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
        watch.unobserve(target);
        draw(target);
      });
    }, { rootMargin: "200px" });
    document.querySelectorAll(".figure").forEach((place) => watch.observe(place));
    document.querySelectorAll(".view").forEach((view) =>
      view.addEventListener("change", () => draw(view.closest(".panel").querySelector(".figure"))));
    dark.addEventListener("change", () => drawn.forEach(draw));
    watchPrinting();
    const asked = Number(location.hash.replace("#trial-", ""));
    if (location.hash && report.details[asked]) pin(asked);
    root.dataset.ready = "yes";
  }

  start().catch((error) => {
    const note = element("p", `Figures cannot be drawn in this browser (${error}); the tables stand.`);
    $("front-plot").replaceWith(note);
  });
})();
