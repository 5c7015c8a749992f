// Elements from data. Texts only ever become text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg"

export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".")
  const element = document.createElement(name || "div")
  if (classes.length) element.className = classes.join(" ")
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value)
    else if ((key === "href" || key === "src") && /^\s*(javascript|vbscript):/i.test(value)) continue // nothing that runs
    else if (key in element && key !== "list" && key !== "form") element[key] = value
    else element.setAttribute(key, value === true ? "" : value)
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

/** The outline of a picture of that ratio, such as "16:9". */
export function shape(ratio) {
  const [width, height] = ratio.split(":").map(Number)
  const scale = 20 / Math.max(width || 1, height || 1)
  const [w, t] = width && height ? [width * scale, height * scale] : [20, 20]
  const box = { x: 12 - w / 2, y: 12 - t / 2, width: w, height: t, rx: 2.5 }
  return svg([["rect", width ? box : { ...box, "stroke-dasharray": "3 3" }]])
}

const ICONS = {
  fast: [["path", { d: "M13 3 5 14h6l-1 7 8-11h-6z" }]],
  fine: [["path", { d: "m12 3 2.6 6.1 6.4.6-4.9 4.3 1.5 6.4-5.6-3.4-5.6 3.4 1.5-6.4L3 9.700l6.4-.6z" }]],
  clock: [["circle", { cx: 12, cy: 12, r: 8.5 }], ["path", { d: "M12 7v5l3.500 2" }]],
  sound: [["path", { d: "M5 10v4h3l4 4V6L8 10zM16 9q2 3 0 6" }]],
  image: [["rect", { x: 3, y: 4, width: 18, height: 16, rx: 2 }], ["path", { d: "m5 17 5-5 4 4 2-2 3 3" }]],
  video: [["rect", { x: 3, y: 5, width: 18, height: 14, rx: 2 }], ["path", { d: "m10 9 5 3-5 3z" }]],
  list: [["path", { d: "M4 7h16M4 12h16M4 17h10" }]],
}

export const icon = (name) => svg(ICONS[name] ?? ICONS.image)

function svg(parts) {
  const root = document.createElementNS(SVG, "svg")
  root.setAttribute("viewBox", "0 0 24 24")
  root.setAttribute("aria-hidden", "true")
  for (const [name, attributes] of parts) {
    const part = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value)
    root.append(part)
  }
  return root
}

/** Seconds in words, such as "2 min" or "45 s". */
export function spell(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`
  return `${Math.round(seconds / 3600)} h`
}

/** A span of time in words: "2 to 3 min". */
export function between(low, high) {
  const [first, last] = [spell(low), spell(high)]
  if (first === last) return `about ${first}`
  return first.split(" ")[1] === last.split(" ")[1] ? `${first.split(" ")[0]} to ${last}` : `${first} to ${last}`
}

export const words = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ")

/** Tell a screen reader. */
export function say(text) {
  document.getElementById("live").textContent = text
}

/** A dialog that is closed by its button or Escape, and removed afterwards. */
export function dialog(title, content, { wide = false } = {}) {
  const close = h("button.quiet", { type: "button", onclick: () => box.close() }, "Close")
  const box = h(
    wide ? "dialog.wide" : "dialog",
    { "aria-label": title, onclose: () => box.remove() },
    h("div.bar", {}, h("h2", {}, title), close),
    content,
  )
  document.body.append(box)
  box.showModal()
  return box
}
