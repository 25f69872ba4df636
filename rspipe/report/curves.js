// Certified accuracy against the radius: classifiers are switched on and off, and a pointer reads values off.
for (const box of document.querySelectorAll(".curves")) {
  const { colours, levels } = JSON.parse(box.querySelector("script").textContent);
  const space = box.nextElementSibling.querySelector("svg").namespaceURI;
  const make = (name, attributes = {}, text = "") => {
    const svg = ["svg", "path", "line", "text", "circle"].includes(name);
    const made = svg ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const dashes = ["", "6 3", "6 2 1 2", "2 2"], height = 430, left = 46, right = 8;
  const chart = make("div", { class: "chart" }), list = make("div", { class: "list" }), choice = make("p", { class: "soft" });
  let level, slots, at, accuracyAxis, gainAxis, x;

  // A classifier keeps the colour that it got when it was switched on.
  const toggle = (index, on) => {
    slots.delete(index);
    if (!on) return;
    const taken = new Set(slots.values());
    let slot = 0;
    while (taken.has(slot)) slot++;
    slots.set(index, index === level.baseline ? -1 : slot);
  };
  const stroke = index => {
    const slot = slots.get(index);
    return slot < 0 ? { stroke: "var(--soft)" }
      : { stroke: colours[slot % colours.length], "stroke-dasharray": dashes[Math.floor(slot / colours.length) % dashes.length] };
  };
  const share = (index, place) => level.shares[index][place] / 10000;
  const gain = (index, place) => 100 * (share(index, place) - share(level.baseline, place));
  const points = value => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(1);
  const ticks = (low, high, most) => {
    const raw = (high - low) / most, ten = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(times => times * ten).find(one => one >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) => [(first + k) * step, Math.max(0, -Math.floor(Math.log10(step)))]);
  };

  const draw = () => {
    const width = chart.clientWidth, radii = level.radii, most = radii.length - 1;
    if (!width) return;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `Certified accuracy, σ = ${level.sigma}, of ${slots.size} classifiers` });
    const on = [...slots.keys()], gains = level.baseline === null ? [] : on.filter(index => index !== level.baseline);
    x = radius => left + radius / radii[most] * (width - left - right);
    const axis = (low, high, top, bottom) => value => bottom - (value - low) / (high - low) * (bottom - top);
    const lowest = Math.min(-1, ...gains.flatMap(index => radii.map((_, place) => gain(index, place))));
    const highest = Math.max(1, ...gains.flatMap(index => radii.map((_, place) => gain(index, place))));
    const floor = height - 38, split = gains.length ? 250 : floor;
    accuracyAxis = axis(0, 1, 22, split);
    gainAxis = axis(lowest, highest, split + 34, floor);
    const rule = (value, place, digits) => {
      svg.append(make("line", { x1: left, x2: width - right, y1: place, y2: place, class: "rule" }));
      svg.append(make("text", { x: left - 6, y: place + 4, "text-anchor": "end" }, value.toFixed(digits).replace("-", "−")));
    };
    for (const [value, digits] of ticks(0, 1, 5)) rule(value, accuracyAxis(value), digits);
    if (gains.length) for (const [value, digits] of ticks(lowest, highest, 5)) rule(value, gainAxis(value), digits);
    for (const [value, digits] of ticks(0, radii[most], Math.max(3, width / 90)))
      svg.append(make("text", { x: x(value), y: floor + 17, "text-anchor": "middle" }, value.toFixed(digits)));
    svg.append(make("text", { x: left, y: 12 }, "certified accuracy"));
    if (gains.length) svg.append(make("text", { x: left, y: split + 24 }, "gain on the baseline (points)"));
    svg.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "certified L2 radius r (pixel units)"));
    // Constant from the left up to each radius at which an image is lost.
    const steps = height_of => radii.map((radius, place) => `${place ? "V" : `M${left} `}${height_of(place).toFixed(1)}H${x(radius).toFixed(1)}`).join("");
    for (const index of on) {
      const title = make("title", {}, level.names[index]), path = make("path", { ...stroke(index), d: steps(place => accuracyAxis(share(index, place))) });
      path.append(title);
      svg.append(path);
    }
    for (const index of gains) svg.append(make("path", { ...stroke(index), d: steps(place => gainAxis(gain(index, place))) }));
    svg.append(make("line", { class: "cursor", y1: 18, y2: floor }));
    svg.addEventListener("pointermove", event => {
      const radius = (event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right) * radii[most];
      at = Math.max(0, Math.min(most, Math.round(radius / radii[most] * most)));
      read();
    });
    svg.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(most, at + step));
      read();
    });
    chart.replaceChildren(svg);
    read();
  };

  // What the curves are at the radius under the pointer.
  const read = () => {
    const svg = chart.firstChild, cursor = svg.querySelector(".cursor"), place = x(level.radii[at]);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    svg.querySelectorAll("circle").forEach(dot => dot.remove());
    for (const index of slots.keys()) {
      const dot = height_of => svg.append(make("circle", { cx: place, cy: height_of, r: 3, fill: stroke(index).stroke }));
      dot(accuracyAxis(share(index, at)));
      if (level.baseline !== null && index !== level.baseline) dot(gainAxis(gain(index, at)));
    }
    list.querySelector("th.at").textContent = `CA(${level.radii[at].toFixed(2)})`;
    for (const row of list.querySelectorAll("tbody tr")) {
      const index = Number(row.dataset.index);
      row.cells[2].textContent = share(index, at).toFixed(3);
      if (row.cells[3]) row.cells[3].textContent = index === level.baseline ? "–" : points(gain(index, at));
    }
  };

  const enlist = () => {
    const table = make("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    const heads = [["classifier", ""], ["ACR", "num"], ["", "num at"], ...(level.baseline === null ? [] : [["gain", "num"]])];
    for (const [text, words] of heads) head.append(make("th", { scope: "col", class: words }, text));
    level.names.forEach((name, index) => {
      const row = body.insertRow(), label = make("label"), input = make("input", { type: "checkbox" }), sample = make("svg", { viewBox: "0 0 24 8", class: "sample" });
      const colour = () => sample.replaceChildren(...(slots.has(index) ? [make("path", { ...stroke(index), d: "M0 4H24" })] : []));
      row.dataset.index = index;
      input.checked = slots.has(index);
      input.addEventListener("change", () => { toggle(index, input.checked); colour(); draw(); });
      label.append(input, sample, make("span", {}, index === level.baseline ? `${name} (baseline)` : name));
      row.insertCell().append(label);
      for (const [, words] of heads.slice(1)) row.insertCell().className = words;
      row.cells[1].textContent = level.acr[index];
      colour();
    });
    list.replaceChildren(table);
  };

  const show = chosen => {
    level = chosen;
    slots = new Map();
    for (const index of level.shown) toggle(index, true);
    at = Math.round(level.sigma / level.radii.at(-1) * (level.radii.length - 1));
    at = Math.min(at, level.radii.length - 1);
    enlist();
    draw();
  };
  levels.forEach((one, index) => {
    const label = make("label"), input = make("input", { type: "radio", name: "level" });
    input.checked = !index;
    input.addEventListener("change", () => show(one));
    label.append(input, `σ = ${one.sigma} `);
    choice.append(label);
  });
  box.append(choice, chart, list);
  box.classList.add("live");
  show(levels[0]);
  // A folded part has no width before it opens.
  new ResizeObserver(draw).observe(chart);
}
