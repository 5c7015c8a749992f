// Cards of what is under way, and of what needs a decision.

import { call, onChange, sorted, take } from "./api.js"
import { dialog, h, icon, spell } from "./dom.js"

const RUNNING = new Set(["pending", "processing", "sending"])
const DECIDE = new Set(["unknown"])
const BAD = new Set(["failed", "cancelled", "refused", "not-submitted"])
const LABELS = {
  pending: "Waiting",
  processing: "Working",
  sending: "Sending",
  completed: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  refused: "Refused",
  unknown: "Answer lost",
  "not-submitted": "Not sent",
}

export const unfinished = (card) => RUNNING.has(card.status)

export function follow(main) {
  const groups = [
    ["Needs a decision", (card) => DECIDE.has(card.status) || (unfinished(card) && card.message && card.remedies.length)],
    ["Under way", (card) => unfinished(card) && !(card.message && card.remedies.length)],
    ["Lately", (card) => !unfinished(card) && !DECIDE.has(card.status)],
  ]
  const body = h("div")
  main.append(h("h1", {}, "Follow"), body)
  const drawn = new Map()
  const lists = groups.map(([title]) => {
    const list = h("ul.cards")
    const section = h("section", { hidden: true }, h("h2", {}, title), list)
    return { list, section }
  })
  const empty = h("p.empty", {}, "Nothing is under way. ", h("a", { href: "#make" }, "Make something"))
  body.append(...lists.map((one) => one.section), empty)

  function draw() {
    let any = false
    groups.forEach(([, belongs], at) => {
      const wanted = sorted().filter(belongs).slice(0, at === 2 ? 6 : 200)
      const items = wanted.map((card) => {
        const held = drawn.get(card.key)
        if (held?.card === card) return held.item
        const item = h("li", { id: `card-${card.key}` }, cardOf(card))
        // A button that has the focus keeps it when its card is drawn again.
        const focus = held?.item.contains(document.activeElement) && document.activeElement.dataset.action
        drawn.set(card.key, { card, item })
        if (focus) queueMicrotask(() => item.querySelector(`[data-action="${focus}"]`)?.focus())
        return item
      })
      const { list, section } = lists[at]
      if (items.length !== list.children.length || items.some((item, i) => list.children[i] !== item)) list.replaceChildren(...items)
      section.hidden = !items.length
      any ||= items.length > 0
    })
    empty.hidden = any
  }
  draw()
  const off = onChange(draw)
  const timer = setInterval(() => {
    for (const { card, item } of drawn.values()) if (unfinished(card)) tick(card, item)
  }, 1000)
  return () => {
    off()
    clearInterval(timer)
  }
}

export const statusOf = (card) =>
  h(`span.status.${BAD.has(card.status) ? "bad" : DECIDE.has(card.status) ? "warn" : unfinished(card) ? "busy" : "good"}`, {}, LABELS[card.status] ?? card.status)

function cardOf(card) {
  const media = card.files[0]
  const picture = media ? h("a.thumb", { href: `#gallery?${encodeURIComponent(card.key)}`, "aria-label": "Show it in the gallery" }, preview(media)) : h("span.thumb", {}, icon(card.kind))
  const done = fraction(card)
  const bar = unfinished(card) && h("progress", { max: 1, value: done, "aria-label": "Expected progress" })
  return h(
    "article.card",
    {},
    picture,
    h(
      "div.body",
      {},
      h("p.prompt", {}, card.prompt || "(no prompt)"),
      h("p.meta", {}, statusOf(card), h("span", {}, card.endpoint), h("span.times", {}, times(card)), card.cost && h("span", {}, costOf(card))),
      bar,
      card.message && h("details.message", { open: card.message.length < 300 }, h("summary", {}, "What happened"), h("p", {}, card.message)),
      buttons(card),
    ),
  )
}

export const costOf = (card) => (card.refunded ? `${card.cost} refunded` : card.estimated ? `about ${card.cost}` : card.cost)

function fraction(card) {
  if (card.progress) return card.progress
  const elapsed = Date.now() / 1000 - card.started
  return card.median ? Math.min(0.95, elapsed / (card.p90 ?? card.median)) : undefined
}

function times(card) {
  if (!unfinished(card)) return card.ended ? `took ${spell(card.ended - card.started)}` : ""
  const elapsed = Date.now() / 1000 - card.started
  if (!card.p90) return spell(elapsed)
  if (elapsed > card.p90) return `${spell(elapsed)}, longer than usual`
  const left = Math.max(1, card.median - elapsed)
  return `${spell(elapsed)}, ${elapsed > card.median ? "any moment now" : `about ${spell(left)} left`}`
}

function tick(card, item) {
  const bar = item.querySelector("progress")
  const value = fraction(card)
  if (bar && value !== undefined) bar.value = value
  const text = item.querySelector(".times")
  if (text) text.textContent = times(card)
}

function buttons(card) {
  const problem = h("p.problem", { role: "alert" })
  const act = async (action, ref) => {
    problem.textContent = ""
    try {
      take([await call("api/job", { key: card.key, action, ref })])
    } catch (error) {
      problem.textContent = error.message
    }
  }
  const made = card.remedies
    .filter((remedy) => remedy.label)
    .map((remedy) =>
      h("button", { type: "button", "data-action": remedy.action, title: remedy.detail, onclick: () => ask(card, remedy, act) }, remedy.label),
    )
  const advice = card.remedies.filter((remedy) => !remedy.label && remedy.detail).map((remedy) => h("li", {}, remedy.detail))
  if (card.cancel) made.push(h("button", { type: "button", "data-action": "cancel", onclick: () => act("cancel") }, "Cancel"))
  if (card.missing && card.ref) made.push(h("button", { type: "button", "data-action": "save", onclick: () => act("save") }, "Save again"))
  if (BAD.has(card.status)) made.push(h("a.button", { href: `#make?${encodeURIComponent(card.key)}` }, "Change and try again"))
  return [advice.length && h("ul.advice", {}, advice), made.length && h("div.buttons", {}, made), problem].filter(Boolean)
}

/** What may cost money or needs an answer is asked first. */
function ask(card, remedy, act) {
  if (remedy.action === "resume" || remedy.action === "attach") return act(remedy.action)
  const input = remedy.action === "resolve" && h("input", { id: "ref", placeholder: `${card.endpoint}/...`, required: true })
  const text = {
    resubmit: "This may pay for a second generation: the first one may have been bought.",
    forget: "The card goes away. If a job was bought, its result is not fetched.",
    resolve: "The reference of the job, as the provider's account shows it:",
  }[remedy.action]
  const box = dialog(
    remedy.label,
    h(
      "form",
      { method: "dialog", onsubmit: () => act(remedy.action, input ? input.value.trim() : undefined) },
      h(input ? "label" : "p", input ? { htmlFor: "ref" } : {}, text),
      input,
      remedy.detail && h("p.hint", {}, `Do this ${remedy.detail.replace(/^if/, "only if")}.`),
      h("div.buttons", {}, h("button.primary", { type: "submit" }, remedy.label)),
    ),
  )
  box.querySelector("input, button.primary").focus()
}

export function preview(file, { controls = false } = {}) {
  if (file.type.startsWith("video/")) {
    // Without a time, some browsers show no picture before the clip plays.
    const src = controls ? file.href : `${file.href}#t=0.1`
    const clip = h("video", { src, muted: true, loop: true, playsInline: true, preload: "metadata", controls, tabIndex: controls ? 0 : -1 })
    if (controls) clip.autoplay = true
    return clip
  }
  if (file.type.startsWith("audio/")) return h("audio", { src: file.href, controls: true })
  return h("img", { src: file.href, alt: "", loading: "lazy" })
}
