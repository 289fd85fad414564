// What the controls of the explorer do: choose a setting that exists, and show its numbers in the charts and in words.
// Every number and every answer was computed in Python; the charts are Vega-Lite's.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("explorer-data");
const form = document.getElementById("explorer-controls");
const selects = data.controls.map((control) => form.elements[control.name]);
const slider = form.elements.pairs;
const ARMS = ["DPO", "RLHF", "ratio"];

let setting = data.settings[0];
let chosen = Math.max(...data.parts[setting.pairs]);

/** The setting nearest to some choices: axis by axis the chosen value if it exists with those before, else the first. */
function nearest(at) {
  return at.reduce((left, value, axis) => {
    const wanted = left.some((each) => each.at[axis] === value) ? value : left[0].at[axis];
    return left.filter((each) => each.at[axis] === wanted);
  }, data.settings)[0];
}

/** Options of a control: the values that exist with the choices of the controls before it. */
function offer(select, axis) {
  const before = data.settings.filter((each) => each.at.slice(0, axis).every((value, i) => value === setting.at[i]));
  const values = [...new Set(before.map((each) => each.at[axis]))].sort((a, b) => a - b);
  const label = (value) => (value === null ? "–" : data.controls[axis].values[value]);
  select.replaceChildren(...values.map((value) => new Option(label(value), value)));
  select.selectedIndex = values.indexOf(setting.at[axis]);
  select.disabled = values.length < 2;
}

const count = (pairs) => pairs.toLocaleString("en-US");

/** A number as the rest of the page prints it. */
function number(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) {
    const [digits, power] = value.toExponential(2).replace("+", "").split("e");
    return `${digits}·10${[...power].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`.replace("-", "−");
  }
  return (size < 1000 ? value.toPrecision(3) : count(value)).replace("-", "−");
}

const between = ([estimate, low, high]) => `${number(estimate)} (${number(low)} to ${number(high)})`;

function cell(kind, label, text) {
  const made = document.createElement(kind);
  made.dataset.label = label;
  made.textContent = text;
  made.setAttribute("role", kind === "th" ? "rowheader" : "cell");
  return made;
}

/** The table below the charts; the row of the chosen number of pairs is marked. */
function list() {
  const rows = column("pairs").map((pairs, i) => {
    const row = document.createElement("tr");
    row.setAttribute("role", "row");
    if (pairs === chosen) row.setAttribute("aria-current", "true");
    const heading = cell("th", "pairs", count(pairs));
    heading.scope = "row";
    row.append(
      heading,
      cell("td", "DPO, nats", between(column("DPO")[i])),
      cell("td", "RLHF, nats", between(column("RLHF")[i])),
      cell("td", "ratio", between(column("ratio")[i])),
      cell("td", "predicted ratio", number(column("ratio")[i][3])),
      cell("td", "better", column("better")[i]),
      cell("td", "seeds", column("seeds")[i]),
    );
    return row;
  });
  document.getElementById("explorer-rows").replaceChildren(...rows);
}

const column = (name) => data.parts[setting[name]];

/** The rows that the charts draw. */
function curves() {
  return ARMS.flatMap((arm) =>
    column("pairs").flatMap((pairs, i) => {
      const [estimate, low, high, predicted] = column(arm)[i];
      return [
        { pairs, arm, kind: "measured", estimate, low, high },
        { pairs, arm, kind: "predicted", estimate: predicted },
      ].filter((row) => row.estimate !== null);
    }),
  );
}

/** Put the chosen setting into the charts, the sentences and the table. */
function show(views) {
  const all = column("pairs");
  const distance = (pairs) => Math.abs(Math.log(pairs / chosen));
  const place = all.reduce((best, pairs, i) => (distance(pairs) < distance(all[best]) ? i : best), 0);
  chosen = all[place];
  slider.max = all.length - 1;
  slider.value = place;
  slider.disabled = all.length < 2;
  slider.setAttribute("aria-valuetext", `${count(chosen)} pairs`);
  form.elements.shown.value = count(chosen);

  const rows = curves();
  views.forEach((view) => view.data("curves", rows).signal("chosen", chosen).run());

  const [dpo, rlhf, ratio] = ARMS.map((arm) => column(arm)[place]);
  document.getElementById("explorer-answer").textContent = column("answer");
  document.getElementById("explorer-here").textContent =
    `With ${count(chosen)} pairs the regret of DPO is ${between(dpo)} nats and that of RLHF ${between(rlhf)} nats, ` +
    `a ratio of ${between(ratio)}. ` +
    (ratio[3] === null
      ? "There is no prediction of it."
      : `Theory predicts ${number(dpo[3])} and ${number(rlhf[3])} nats, a ratio of ${number(ratio[3])}.`);
  list();
}

const charts = Object.entries(read("explorer-charts")).map(([name, spec]) => {
  spec.data.values = curves();
  spec.params.find((each) => each.name === "chosen").value = chosen;
  // ast: expressions are interpreted, as the page's policy lets no text become a program.
  return vegaEmbed(`#explorer-${name}`, spec, { actions: false, ast: true, renderer: "svg" });
});
Promise.all(charts).then((made) => {
  const views = made.map((each) => each.view);
  selects.forEach((select, axis) => {
    offer(select, axis);
    select.addEventListener("change", () => {
      setting = nearest(setting.at.with(axis, Number(select.value)));
      selects.forEach((other, i) => i > axis && offer(other, i));
      show(views);
    });
  });
  slider.addEventListener("input", () => {
    chosen = column("pairs")[slider.value];
    show(views);
  });
  show(views);
});
