// The form: made from the request classes, checked while one types.

import { call, take } from "./api.js"
import { between, dialog, h, icon, say, shape, spell, words } from "./dom.js"

const FIRST = ["prompt", "duration", "model", "mode", "resolution", "aspect_ratio", "count", "audio", "sound", "first_frame", "last_frame", "references", "reference"]
const DRAFT = "kling-studio-draft"
const PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
const CARDS = 6 // values that are shown as cards; more become a list
const SHAPES = 12 // the same, where each card is the shape of a picture
const forms = new Map() // by endpoint, as they are needed

async function form_of(name) {
  if (!forms.has(name)) forms.set(name, await call(`api/form?endpoint=${encodeURIComponent(name)}`))
  return forms.get(name)
}

export function make(main, { endpoints, ask_above: threshold }) {
  const known = new Map(endpoints.map((one) => [one.endpoint, one]))
  let draft = remembered(known)
  let key = newKey()
  let place = ""
  let checked = 0
  let pending
  let sending = false
  let refused = false // what the last purchase was answered stands until something is changed
  let wanted
  const rows = new Map()
  const fieldsBox = h("div.fields")
  const problem = h("div.problem", { role: "alert" })
  const button = h("button.primary.buy", { type: "submit" })
  const when = h("p.hint", { id: "when" })
  const offers = h("div.offers")
  const sent = h("p.sent", { role: "status" })
  const specific = h("select", { id: "endpoint", "aria-label": "Provider and endpoint", onchange: () => choose(specific.value) })
  for (const [provider, list] of grouped(endpoints)) {
    specific.append(h("optgroup", { label: provider }, list.map((one) => h("option", { value: one.endpoint }, `${one.endpoint}: ${one.summary}`))))
  }
  const ways = h(
    "fieldset.ways",
    {},
    h("legend", {}, "What to make"),
    [
      ["video", "Video", "by the best offer", "video"],
      ["image", "Picture", "by the best offer", "image"],
      ["one", "One provider", "all its settings", "list"],
    ].map(([value, title, hint, name]) =>
      h(
        "label.option",
        {},
        h("input", { type: "radio", name: "way", value, onchange: () => choose(value === "one" ? specific.value : value) }),
        icon(name),
        h("span", {}, h("strong", {}, title), h("small", {}, hint)),
      ),
    ),
  )
  const form = h(
    "form.make",
    { noValidate: true, onsubmit: submit },
    h("div.left", {}, ways, specific, fieldsBox),
    h("div.right", {}, offers, h("div.pay", {}, problem, when, button, sent)),
  )
  main.append(h("h1", {}, "Make"), form)

  /** Another endpoint. What was typed goes with it as far as it fits; what was made once, as it was. */
  async function choose(name, fields = draft.fields, { whole = false } = {}) {
    if (!known.has(name)) name = endpoints[0].endpoint
    wanted = name
    let endpoint
    try {
      endpoint = await form_of(name)
    } catch (error) {
      problem.textContent = error.message
      return
    }
    if (wanted !== name) return // another one was chosen since
    const kept = Object.fromEntries(Object.entries(fields).filter(([field, value]) => (whole ? field in endpoint.fields : fits(endpoint.fields[field], value))))
    draft = { endpoint: endpoint.endpoint, fields: kept }
    const one = Boolean(endpoint.provider)
    form.querySelector(`[value="${one ? "one" : name}"]`).checked = true
    specific.hidden = !one
    if (one) specific.value = name
    place = ""
    refused = false
    build(endpoint)
    form.dataset.endpoint = name
    check()
  }

  function build(endpoint) {
    rows.clear()
    const names = Object.keys(endpoint.fields).filter((name) => name !== "callback_url")
    const rank = (name) => (endpoint.required.includes(name) && FIRST.indexOf(name) < 0 ? 0.5 : FIRST.indexOf(name))
    const main = names.filter((name) => rank(name) >= 0).sort((a, b) => rank(a) - rank(b))
    const rest = names.filter((name) => rank(name) < 0)
    const field = (name) => {
      const row = fieldOf(name, endpoint, draft.fields[name], (value) => set(name, value))
      rows.set(name, row)
      return row.element
    }
    fieldsBox.replaceChildren(
      ...main.map(field),
      ...(rest.length ? [h("details.more", { open: rest.some((name) => name in draft.fields) }, h("summary", {}, `More settings (${rest.length})`), h("div.fields", {}, rest.map(field)))] : []),
    )
  }

  function set(name, value) {
    if (value === undefined) delete draft.fields[name]
    else draft.fields[name] = value
    key = newKey() // another request is another purchase
    sent.textContent = ""
    refused = false
    remember(draft)
    clearTimeout(pending)
    pending = setTimeout(check, 250)
  }

  async function check() {
    const number = ++checked
    button.textContent = "Make it"
    let found
    try {
      found = await call("api/check", { endpoint: draft.endpoint, fields: light(draft.fields) })
    } catch (error) {
      if (!refused) problem.textContent = error.message
      return
    }
    if (number !== checked) return // something newer was typed
    if (!refused) {
      problem.textContent = ""
      complain(found.problems, false)
    }
    for (const [name, choices] of Object.entries(found.choices)) rows.get(name)?.choices?.(choices)
    quotes(found.quotes)
  }

  let best
  function quotes(list) {
    const portable = !known.get(draft.endpoint).provider
    const available = list.filter((one) => one.available)
    best = available.find((one) => one.endpoint === place) ?? available[0]
    when.textContent = best?.median ? `Usually ${spell(best.median)}; nine of ten within ${spell(best.p90)}` : ""
    button.textContent = best?.cost ? `Make it · ${best.estimated && !best.cost.startsWith("about") ? "about " : ""}${best.cost}` : "Make it"
    if (!portable || !list.length) {
      offers.replaceChildren()
      if (portable === false && best?.source) offers.replaceChildren(h("p.hint", {}, `Price: ${best.estimated ? "an estimate, " : ""}${best.source}`))
      return
    }
    const refused = list.filter((one) => !one.available)
    offers.replaceChildren(
      h(
        "fieldset",
        {},
        h("legend", {}, "Who makes it"),
        available.length ? null : h("p.problem", {}, "Nobody makes exactly this. The reasons are below."),
        available.map((one) =>
          h(
            "label.offer",
            {},
            h("input", { type: "radio", name: "place", value: one.endpoint, checked: one === best, onchange: () => ((place = one.endpoint), quotes(list)) }),
            h(
              "span",
              {},
              h("strong", {}, known.get(one.endpoint)?.provider ?? one.endpoint),
              h("small", {}, [one.endpoint.split("/")[1], one.model, one.median && `about ${spell(one.median)}`, one.health].filter(Boolean).join(", ")),
            ),
            h("span.price", {}, one.cost ?? "price not known"),
          ),
        ),
      ),
      refused.length ? h("details.more", {}, h("summary", {}, `Not offered by ${refused.length}`), h("ul.advice", {}, refused.map((one) => h("li", {}, h("strong", {}, one.endpoint), ` ${one.reason}`)))) : "",
    )
  }

  /** Show what is wrong beside its field. A field that was never touched is not blamed before sending. */
  function complain(problems, all) {
    for (const [name, row] of rows) row.complain(all || name in draft.fields ? problems[name] : "")
    const other = Object.entries(problems).filter(([name]) => !rows.has(name))
    if (other.length) problem.textContent = other.map(([, text]) => text).join(" ")
    return [...rows].find(([name]) => problems[name])?.[1]
  }

  async function submit(event) {
    event.preventDefault()
    if (sending) return
    const costly = best?.amount && Number(best.amount) > threshold
    if (costly && !(await sure(`This costs ${best.cost}. Make it?`))) return
    sending = true
    button.setAttribute("aria-busy", "true")
    problem.textContent = ""
    refused = false
    try {
      const card = await call("api/jobs", { endpoint: draft.endpoint, fields: draft.fields, key, place })
      take([card])
      key = newKey()
      sent.replaceChildren("It is under way. ", h("a", { href: "#follow" }, "Follow it"), " or make another one.")
      say("It is under way")
    } catch (error) {
      refused = true
      const first = complain(error.fields ?? {}, true)
      if (first) first.focus()
      else problem.replaceChildren(error.message, error.remedies?.length ? h("ul.advice", {}, error.remedies.filter((one) => one.detail).map((one) => h("li", {}, one.label ? `${one.label}: ${one.detail}` : one.detail))) : "")
      if (!first && !Object.keys(error.fields ?? {}).length) problem.append(" ", h("a", { href: "#follow" }, "See its card"))
    } finally {
      sending = false
      button.removeAttribute("aria-busy")
    }
  }

  const again = decodeURIComponent(location.hash.split("?")[1] ?? "")
  if (!again) choose(draft.endpoint)
  else {
    call(`api/request?key=${encodeURIComponent(again)}`)
      .then((told) => choose(told.endpoint, told.fields, { whole: true }))
      .catch((error) => (problem.textContent = error.message))
  }
  return () => clearTimeout(pending)
}

function fieldOf(name, endpoint, value, set) {
  const schema = resolved(endpoint.fields[name], endpoint.definitions)
  const images = endpoint.images[name]
  const id = `field-${name}`
  const error = h("p.error", { id: `${id}-error` })
  schema.description = plain(schema.description)
  const hint = h("p.hint", { id: `${id}-hint` }, schema.description)
  const needed = endpoint.required.includes(name)
  const parts = { id, set, value: value ?? schema.default, schema, hint, describedBy: `${id}-hint ${id}-error` }
  const control = images ? drop(parts, images) : control_of(parts, name, needed)
  const title = [words(name), !needed && !control.group && h("span.optional", {}, "optional")]
  const grouped = control.group
  const element = h(
    grouped ? "fieldset.field" : "div.field",
    { id: `${id}-row` },
    grouped ? h("legend", {}, title) : h("label", { htmlFor: id }, title),
    control.first || control.explained ? null : hint,
    control.element,
    control.first ? hint : null,
    error,
  )
  if (grouped) element.setAttribute("aria-describedby", control.explained ? `${id}-error` : parts.describedBy)
  return {
    element,
    choices: control.choices,
    focus: () => (element.querySelector("textarea, input:checked, input, select, button") ?? element).focus(),
    complain(text) {
      error.textContent = text ?? ""
      element.classList.toggle("wrong", Boolean(text))
      const input = element.querySelector("textarea, input, select")
      if (input) input.setAttribute("aria-invalid", text ? "true" : "false")
    },
  }
}

/** A description without the words of Python. */
const plain = (text = "") => text.replaceAll("If None,", "If left out,").replaceAll("If None.", "If left out.").replaceAll("None", "nothing")

function control_of(parts, name, needed) {
  const { id, set, schema, value, describedBy } = parts
  const choices = [...(schema.choices ?? [])]
  const kind = schema.type
  if (kind === "boolean") return toggle(parts, choices)
  if (choices.length > 1) {
    const open = !needed && (schema.default === undefined || schema.default === null)
    if (value !== undefined && value !== null && !choices.some((one) => one.value === value)) choices.push({ value, label: String(value), hint: "" })
    const automatic = { value: null, label: "Automatic", hint: /If left out, (.+?)\.(\s|$)/.exec(schema.description)?.[1] ?? "" }
    const every = open ? [automatic, ...choices] : choices
    return every.length > (name === "aspect_ratio" ? SHAPES : CARDS) ? select(parts, name, every) : radios(parts, name, every)
  }
  if (name === "prompt" || name.endsWith("prompt") || (kind === "string" && (schema.maxLength ?? 0) > 300)) {
    const count = h("output.count", { htmlFor: id })
    const tell = () => {
      const length = [...area.value].length // as Python counts
      count.textContent = schema.maxLength ? `${length} of ${schema.maxLength}` : `${length} characters`
      count.classList.toggle("over", Boolean(schema.maxLength && length > schema.maxLength))
    }
    const area = h("textarea", { id, rows: name === "prompt" ? 4 : 2, value: value ?? "", "aria-describedby": describedBy, oninput: () => (tell(), set(area.value || (name === "prompt" ? "" : undefined))) })
    tell()
    return { element: h("div.counted", {}, area, count) }
  }
  if (kind === "array" || kind === "object") {
    const area = h("textarea.json", { id, rows: 3, spellcheck: false, placeholder: kind === "array" ? "[...]" : "{...}", value: value && JSON.stringify(value) !== "[]" ? JSON.stringify(value, null, 1) : "", "aria-describedby": describedBy })
    area.addEventListener("input", () => {
      try {
        set(area.value.trim() ? JSON.parse(area.value) : undefined)
      } catch {
        set(area.value) // the server says what it should be
      }
    })
    return { element: area }
  }
  const numeric = kind === "integer" || kind === "number"
  const input = h("input", { id, type: numeric ? "number" : "text", value: value ?? "", "aria-describedby": describedBy })
  if (numeric) {
    input.step = kind === "integer" ? "1" : "any"
    if (schema.minimum !== undefined) input.min = schema.minimum
    if (schema.maximum !== undefined) input.max = schema.maximum
  }
  input.addEventListener("input", () => set(input.value === "" ? undefined : numeric ? Number(input.value) : input.value))
  return { element: input }
}

function toggle({ id, set, value, hint, schema, describedBy }, choices) {
  const input = h("input", { id, type: "checkbox", role: "switch", checked: Boolean(value), "aria-describedby": describedBy, onchange: () => set(input.checked) })
  const tell = (list) => {
    const cost = list.find((one) => one.value)?.hint
    hint.textContent = [schema.description, cost && `With it: ${cost}.`].filter(Boolean).join(" ")
  }
  tell(choices)
  return { element: input, first: true, choices: tell }
}

/** The picture of what a value means. */
function sign(name, choice, i) {
  if (name === "aspect_ratio" || /^\d+:\d+$/.test(choice.value)) return shape(String(choice.value ?? ""))
  if (name === "duration") return icon("clock")
  if (name === "count") return icon("image")
  if (name === "model" || name === "mode" || name === "resolution" || name === "tier") return icon(choice.value === null ? "list" : i ? "fine" : "fast")
  return name === "audio" || name === "sound" ? icon("sound") : ""
}

/** All values, with what the server says of each beside the other settings. A value that does not go with them stays. */
const merged = (choices, told) => choices.map((choice) => told.find((one) => one.value === choice.value) ?? (choice.value === null ? choice : { ...choice, hint: "not with the other settings" }))

/** Values as cards: label, hint, and a picture of what it means. */
function radios({ id, set, value }, name, choices) {
  const element = h("div.options")
  const begin = choices[0].value === null ? 1 : 0
  value ??= choices.find((one) => one.default)?.value ?? null
  const texts = []
  element.append(
    ...choices.map((choice, i) => {
      texts[i] = h("small", {}, about(name, choice))
      return h(
        "label.option",
        {},
        h("input", { type: "radio", name: id, value: String(choice.value ?? ""), checked: choice.value === value, onchange: () => set(choice.value ?? undefined) }),
        sign(name, choice, i - begin),
        h("span", {}, h("strong", {}, choice.label), texts[i]),
      )
    }),
  )
  const explained = choices.every((one) => one.hint || one.value === null) // then the cards say what the field is
  return { element, group: true, explained, choices: (told) => merged(choices, told).forEach((one, i) => (texts[i].textContent = about(name, one))) }
}

function about(name, choice) {
  const time = name === "duration" && choice.seconds && !choice.hint?.includes("usually") ? between(...choice.seconds) : ""
  return [choice.hint, time].filter(Boolean).join(", ")
}

function select({ id, set, value, describedBy }, name, choices) {
  value ??= choices.find((one) => one.default)?.value ?? null
  const line = (choice) => [choice.label, about(name, choice)].filter(Boolean).join(", ")
  const element = h(
    "select",
    { id, "aria-describedby": describedBy, onchange: () => set(choices[element.selectedIndex].value ?? undefined) },
    choices.map((choice) => h("option", { value: String(choice.value ?? ""), selected: choice.value === value }, line(choice))),
  )
  if (!choices.some((one) => one.value === value)) element.selectedIndex = -1
  const picture = sign(name, choices.at(-1), 1)
  return {
    element: picture ? h("div.signed", {}, picture, element) : element,
    choices: (told) => merged(choices, told).forEach((one, i) => (element.options[i].text = line(one))),
  }
}

/** Images by drop, paste, a file or a URL: previews, order, and the limits before anything is sent. */
function drop({ id, set, value, hint, schema }, limits) {
  let items = value ? (Array.isArray(value) ? [...value] : [value]) : []
  const list = h("ol.images")
  const problem = h("p.error", { role: "alert" })
  const file = h("input.hidden", { type: "file", id: `${id}-file`, tabIndex: -1, "aria-label": `Images for ${id.slice(6)}`, accept: limits.formats.map((one) => `image/${one}`).join(","), multiple: limits.most > 1, onchange: () => add([...file.files]) })
  const url = h("input", { id, type: "url", placeholder: "https://... or paste an image here", "aria-describedby": `${id}-hint`, onkeydown: (event) => event.key === "Enter" && (event.preventDefault(), addUrl()) })
  const zone = h(
    "div.drop",
    {
      ondragover: (event) => (event.preventDefault(), zone.classList.add("over")),
      ondragleave: () => zone.classList.remove("over"),
      ondrop: (event) => (event.preventDefault(), zone.classList.remove("over"), add([...event.dataTransfer.files], event.dataTransfer.getData("text/uri-list"))),
      onpaste: (event) => event.clipboardData.files.length && (event.preventDefault(), add([...event.clipboardData.files])),
    },
    list,
    h("div.adding", {}, h("button", { type: "button", onclick: () => file.click() }, "Choose files"), url, h("button", { type: "button", onclick: addUrl }, "Add URL"), file),
    problem,
  )
  hint.textContent = `${limits.most > 1 ? `Up to ${limits.most} images` : "One image"}: ${limits.formats.join(", ").toUpperCase()}, at most ${(limits.max_bytes / 2 ** 20).toFixed(0)} MiB each. Drop, paste, choose or give a URL.${schema.description ? ` ${schema.description.split(". ")[0].split(": at most")[0]}.`.replace("..", ".") : ""}`

  async function add(files, text = "") {
    problem.textContent = ""
    for (const one of files) {
      const format = one.type.split("/")[1]
      if (items.length >= limits.most) problem.textContent = `There is room for ${limits.most}; ${one.name} was left out.`
      else if (!limits.formats.includes(format)) problem.textContent = `${one.name} is ${format?.toUpperCase() ?? "no image"}; this takes ${limits.formats.join(", ").toUpperCase()}.`
      else if (one.size > limits.max_bytes) problem.textContent = `${one.name} has ${(one.size / 2 ** 20).toFixed(1)} MiB; at most ${(limits.max_bytes / 2 ** 20).toFixed(0)} MiB are taken.`
      else items.push(await inline(one))
    }
    if (text) items.length < limits.most ? items.push(text.trim()) : (problem.textContent = `There is room for ${limits.most}.`)
    file.value = ""
    changed()
  }

  function addUrl() {
    const text = url.value.trim()
    if (!/^https?:\/\//.test(text)) {
      problem.textContent = "That is not an address of an image: it begins with https://"
      return
    }
    url.value = ""
    add([], text)
  }

  function changed() {
    draw()
    set(items.length ? (limits.most > 1 || schema.type === "array" ? [...items] : items[0]) : undefined)
  }

  function move(from, to) {
    items.splice(to, 0, ...items.splice(from, 1))
    changed()
    list.children[to]?.querySelector("button")?.focus()
  }

  function draw() {
    list.replaceChildren(
      ...items.map((one, i) =>
        h(
          "li",
          {},
          // An image of another host is not loaded: nobody is told that it is looked at.
          one.startsWith("data:image/") ? h("img", { src: one, alt: `Image ${i + 1}` }) : h("span.address", { title: one }, one.startsWith("http") ? new URL(one).hostname : one.slice(0, 40)),
          h("span.number", {}, i + 1),
          i > 0 && h("button.quiet", { type: "button", "aria-label": `Move image ${i + 1} forward`, onclick: () => move(i, i - 1) }, "←"),
          h("button.quiet", { type: "button", "aria-label": `Remove image ${i + 1}`, onclick: () => (items.splice(i, 1), changed(), url.focus()) }, "×"),
        ),
      ),
    )
  }
  draw()
  return { element: zone }
}

const inline = (file) =>
  new Promise((done, failed) => {
    const reader = new FileReader()
    reader.onload = () => done(reader.result)
    reader.onerror = () => failed(reader.error)
    reader.readAsDataURL(file)
  })

/** The fields for a check: their images are replaced by a small one, so that typing sends no megabytes. */
function light(fields) {
  const small = (value) => (Array.isArray(value) ? value.map(small) : typeof value === "string" && value.startsWith("data:image/") ? PIXEL : value)
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, small(value)]))
}

function resolved(schema, definitions) {
  const one = (part) => (part.$ref ? { ...definitions[part.$ref.split("/").pop()], ...part } : part)
  const found = one(schema)
  if (found.type) return found
  const option = (found.anyOf ?? found.oneOf ?? found.allOf ?? []).map(one).find((part) => part.type !== "null")
  return { ...option, ...found, type: option?.type ?? "string" }
}

function fits(schema, value) {
  if (!schema) return false
  const allowed = (schema.choices ?? []).map((one) => one.value)
  return !allowed.length || allowed.includes(value) || typeof value === "object"
}

function grouped(endpoints) {
  const found = new Map()
  for (const one of endpoints.filter((each) => each.provider)) found.set(one.provider, [...(found.get(one.provider) ?? []), one])
  return found
}

function sure(text) {
  return new Promise((answer) => {
    const yes = h("button.primary", { type: "button", onclick: () => (answer(true), box.close()) }, "Make it")
    const box = dialog("Before you buy", h("div", {}, h("p", {}, text), h("div.buttons", {}, yes)))
    box.addEventListener("close", () => answer(false))
    yes.focus()
  })
}

/** A key for one purchase: sent twice, it buys once. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(8))
  return `studio-${[...bytes].map((one) => one.toString(16).padStart(2, "0")).join("")}`
}

function remember(draft) {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify(draft))
  } catch {
    // Images may be too large to be kept: then a reload loses the draft, and nothing else.
  }
}

function remembered(known) {
  try {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT))
    if (known.has(draft.endpoint)) return draft
  } catch {
    // there is none
  }
  return { endpoint: known.has("video") ? "video" : [...known.keys()][0], fields: {} }
}
