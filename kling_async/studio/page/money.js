// What was spent.

import { call, onChange } from "./api.js"
import { h } from "./dom.js"

export function money(main) {
  const body = h("div")
  main.append(h("h1", {}, "Money"), body)

  async function draw() {
    let told
    try {
      told = await call("api/money")
    } catch (error) {
      body.replaceChildren(h("p.problem", { role: "alert" }, error.message))
      return
    }
    body.replaceChildren(
      table("Today", told.today),
      table("In all", told.all),
      h("p.budget", {}, told.left ? `Left of the budget: ${told.left.join(", ")}` : "No budget is set: kling studio --budget 5 sets one."),
    )
  }
  draw()
  let due
  const off = onChange(() => {
    clearTimeout(due)
    due = setTimeout(draw, 500)
  })
  return () => {
    off()
    clearTimeout(due)
  }
}

function table(title, rows) {
  if (!rows.length) return h("section.panel", {}, h("h2", {}, title), h("p.hint", {}, "Nothing was bought."))
  return h(
    "section.panel",
    {},
    h("h2", {}, title),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ["Provider", "Generations", "Spent"].map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, row.provider),
            h("td", {}, row.jobs),
            h("td", {}, row.amount ?? "price not known", row.estimated && h("small", {}, row.estimated === row.amount ? "estimated" : `${row.estimated} of it estimated`), row.uncertain > 0 && h("small", {}, `${row.uncertain} may not have been bought`)),
          ),
        ),
      ),
    ),
  )
}
