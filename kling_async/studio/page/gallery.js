// Everything that was made: search, look, compare, download, again, and as code.

import { call, cards, onChange, sorted } from "./api.js"
import { dialog, h, icon, say, spell, words } from "./dom.js"
import { costOf, preview, statusOf } from "./follow.js"

const STEP = 60

export function gallery(main) {
  const search = h("input", { type: "search", id: "search", placeholder: "Words of the prompt", oninput: draw })
  const kind = choose("kind", "Kind", ["video", "image", "audio"], draw)
  const provider = choose("provider", "Provider", [...new Set(sorted().map((card) => card.provider))], draw)
  const compare = h("button", { type: "button", disabled: true, onclick: () => side([...picked].map((key) => cards.get(key))) }, "Compare two")
  const list = h("ul.tiles")
  const found = h("p.hint", { role: "status" })
  const more = h("button", { type: "button", onclick: () => ((most += STEP), draw()) }, "Show more")
  const empty = h("p.empty", {}, "")
  const picked = new Set()
  const drawn = new Map()
  let most = STEP
  main.append(
    h("h1", {}, "Gallery"),
    h("div.filters", { role: "search" }, h("label", { htmlFor: "search" }, h("span", {}, "Search"), search), kind.label, provider.label, compare),
    found,
    list,
    empty,
    h("div.buttons", {}, more),
  )

  function draw() {
    const text = search.value.trim().toLowerCase()
    const all = sorted().filter((card) => card.status === "completed")
    const wanted = all.filter(
      (card) =>
        (!text || `${card.prompt} ${card.endpoint}`.toLowerCase().includes(text)) &&
        (!kind.select.value || card.kind === kind.select.value) &&
        (!provider.select.value || card.provider === provider.select.value),
    )
    provider.add([...new Set(all.map((card) => card.provider))])
    const items = wanted.slice(0, most).map((card) => {
      const held = drawn.get(card.key)
      if (held?.card === card) return held.item
      const item = tile(card)
      drawn.set(card.key, { card, item })
      return item
    })
    if (items.length !== list.children.length || items.some((item, i) => list.children[i] !== item)) list.replaceChildren(...items)
    more.hidden = wanted.length <= most
    found.textContent = all.length ? `${wanted.length} of ${all.length}` : ""
    empty.hidden = wanted.length > 0
    empty.replaceChildren(all.length ? "Nothing here has these words." : "Nothing is made yet. ", all.length ? "" : h("a", { href: "#make" }, "Make something"))
  }

  function tile(card) {
    const box = h("input", {
      type: "checkbox",
      checked: picked.has(card.key),
      "aria-label": `Compare: ${card.prompt.slice(0, 60)}`,
      onchange: () => {
        box.checked ? picked.add(card.key) : picked.delete(card.key)
        if (picked.size > 2) {
          const first = picked.values().next().value
          picked.delete(first)
          const other = drawn.get(first)?.item.querySelector("input")
          if (other) other.checked = false
        }
        compare.disabled = picked.size !== 2
      },
    })
    const media = card.files[0]
    const face = media ? preview(media) : h("span.none", {}, icon(card.kind), card.missing ? "Not saved in time" : "Being saved")
    const open = h(
      "button.open",
      { type: "button", "aria-label": `Show: ${card.prompt.slice(0, 80) || card.endpoint}`, onclick: () => details(card) },
      h("span.face", {}, media && h("span.behind", {}, icon(card.kind)), face, media?.type.startsWith("video/") && h("span.play", {}, icon("video"))),
    )
    if (media?.type.startsWith("video/")) {
      open.onmouseenter = () => face.play().catch(() => {})
      open.onmouseleave = () => face.pause()
    }
    return h("li.tile", {}, open, h("label.pick", {}, box), h("p.prompt", {}, card.prompt || "(no prompt)"), h("p.meta", {}, h("span", {}, card.provider), card.cost && h("span", {}, costOf(card))))
  }

  draw()
  const key = decodeURIComponent(location.hash.split("?")[1] ?? "")
  if (cards.has(key)) details(cards.get(key))
  return onChange(draw)
}

function choose(id, title, values, draw) {
  const select = h("select", { id, onchange: draw }, h("option", { value: "" }, "All"))
  const add = (names) => {
    for (const name of names) if (![...select.options].some((one) => one.value === name)) select.append(h("option", { value: name }, words(name)))
  }
  add(values)
  return { select, add, label: h("label", { htmlFor: id }, h("span", {}, title), select) }
}

const facts = (card) =>
  h(
    "dl.facts",
    {},
    Object.entries({
      Endpoint: card.endpoint,
      ...Object.fromEntries(Object.entries(card.settings).map(([name, value]) => [words(name), typeof value === "object" ? JSON.stringify(value) : String(value)])),
      Cost: card.cost && costOf(card),
      Time: card.ended && spell(card.ended - card.started),
      Made: new Date(card.started * 1000).toLocaleString(),
    })
      .filter(([, value]) => value)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  )

function details(card) {
  const shown = h("div.media", {}, card.files.length ? card.files.map((file) => preview(file, { controls: true })) : h("p.empty", {}, card.missing ? "The file was not saved before its link expired." : "The file is being saved."))
  const code = h("div.code", {})
  const box = dialog(
    card.kind === "video" ? "Video" : card.kind === "image" ? "Picture" : "Sound",
    h(
      "div.details",
      {},
      shown,
      h(
        "div",
        {},
        h("p.whole", {}, card.prompt),
        statusOf(card),
        facts(card),
        h(
          "div.buttons",
          {},
          card.files.map((file, i) => h("a.button", { href: `${file.href}?download`, download: file.name }, card.files.length > 1 ? `Download ${i + 1}` : "Download")),
          h("a.button.primary", { href: `#make?${encodeURIComponent(card.key)}`, onclick: () => box.close() }, "Again with these settings"),
          h("button", { type: "button", onclick: () => asCode(card, code) }, "As code"),
        ),
        code,
      ),
    ),
    { wide: true },
  )
}

async function asCode(card, place) {
  let answer
  try {
    answer = await call(`api/request?key=${encodeURIComponent(card.key)}`)
  } catch (error) {
    place.replaceChildren(h("p.problem", { role: "alert" }, error.message))
    return
  }
  const names = { python: "Python", kling: "kling generate", curl: "curl" }
  place.replaceChildren(
    ...Object.entries(answer.code).map(([name, text]) =>
      h(
        "section",
        {},
        h("div.bar", {}, h("h3", {}, names[name]), h("button.quiet", { type: "button", onclick: () => copy(text) }, "Copy")),
        h("pre", { tabIndex: 0, "aria-label": names[name] }, text),
      ),
    ),
  )
  place.scrollIntoView({ block: "nearest" })
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    say("Copied")
  } catch {
    say("The browser does not allow copying; select the text")
  }
}

/** Two beside each other. What differs stands out. */
function side(two) {
  const lists = two.map(facts)
  const values = lists.map((list) => new Map([...list.children].map((row) => [row.firstChild.textContent, row.lastChild.textContent])))
  lists.forEach((list, i) => {
    for (const row of list.children) row.classList.toggle("differs", values[1 - i].get(row.firstChild.textContent) !== row.lastChild.textContent)
  })
  dialog("Compare", h("div.side", {}, two.map((card, i) => h("div", {}, card.files[0] ? preview(card.files[0], { controls: true }) : h("p.empty", {}, "Not saved"), h("p.whole", {}, card.prompt), lists[i]))), { wide: true })
}
