// The views and the way between them.

import { call, cards, connect, onChange } from "./api.js"
import { h, say } from "./dom.js"
import { follow, unfinished } from "./follow.js"
import { gallery } from "./gallery.js"
import { make } from "./make.js"
import { money } from "./money.js"

const views = { make, follow, gallery, money }
const main = document.getElementById("main")
let leave = () => {}
let start

function show(first = false) {
  const name = location.hash.slice(1).split("?")[0]
  const view = views[name] ? name : "make"
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  }
  leave()
  main.replaceChildren()
  leave = views[view](main, start) ?? (() => {})
  document.title = `${view[0].toUpperCase()}${view.slice(1)} · Kling studio`
  if (!first) {
    main.focus({ preventScroll: true })
    scrollTo(0, 0)
  }
}

function count() {
  const badge = document.getElementById("running")
  const number = [...cards.values()].filter(unfinished).length
  badge.hidden = !number
  badge.textContent = number
  badge.setAttribute("aria-label", `${number} under way`)
}

onChange((changed) => {
  count()
  for (const card of changed) {
    const old = seen.get(card.key)
    if (old && old !== card.status) say(`${card.prompt.slice(0, 60) || card.endpoint}: ${card.status}`)
    seen.set(card.key, card.status)
  }
})
const seen = new Map()

function state(text) {
  const lost = document.getElementById("lost")
  lost.hidden = !text
  lost.textContent = text
}

try {
  start = await call("api/start")
  const banner = document.getElementById("banner")
  banner.hidden = !start.sandbox
  banner.textContent = "Sandbox: nothing is bought, and jobs end sooner than the usual times shown here. Set an API key to make real pictures."
  addEventListener("hashchange", () => show())
  show(true)
  connect(state)
} catch (error) {
  main.replaceChildren(h("p.empty", {}, error.message))
}
