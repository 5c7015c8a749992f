// Calls to the server, and the cards that it tells of.

export class Refused extends Error {
  constructor(answer) {
    super(answer.message)
    this.fields = answer.fields ?? {}
    this.remedies = answer.remedies ?? []
  }
}

export async function call(path, body) {
  let answer
  const settings = body && { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } }
  try {
    answer = await fetch(path, settings)
  } catch {
    throw new Refused({ message: "The studio does not answer. Is `kling studio` still running? Nothing is lost." })
  }
  if (answer.ok) return answer.json()
  const text = await answer.text()
  let problem
  try {
    problem = JSON.parse(text)
  } catch {
    problem = { message: text || "The studio does not answer as it should. Reload the page." }
  }
  throw new Refused(problem)
}

/** All cards by key, as every open page has them. */
export const cards = new Map()
const listeners = new Set()

export const sorted = () => [...cards.values()].sort((a, b) => b.started - a.started)

export function onChange(listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export function take(list) {
  const changed = []
  for (const card of list) {
    const known = cards.get(card.key)
    if (known && known.read > card.read) continue // a list that was read before a change arrives after it
    if (card.status === "forgotten") cards.delete(card.key)
    else cards.set(card.key, card)
    changed.push(card)
  }
  if (changed.length) for (const listener of listeners) listener(changed)
}

export function connect(onState) {
  const source = new EventSource("api/events")
  source.addEventListener("hello", async () => {
    try {
      take(await call("api/jobs"))
      onState("")
    } catch (error) {
      onState(error.message)
    }
  })
  source.addEventListener("message", (message) => take([JSON.parse(message.data)]))
  source.addEventListener("error", async () => {
    onState("The studio does not answer. The page goes on when it is back; nothing is lost.")
    if (source.readyState !== EventSource.CLOSED) return
    try {
      await call("api/jobs")
    } catch (error) {
      onState(error.message)
    }
    setTimeout(() => connect(onState), 3000)
  })
}
